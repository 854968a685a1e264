# docker build -t threadsight .
# docker run --rm -p 127.0.0.1:8080:8080 -v threadsight:/data -e THREADSIGHT_WEB_TOKEN=at-least-16-characters threadsight
# With a GPU: add --gpus all. CUDA's libraries come with the PyTorch that pip installs; the host only needs the driver.
FROM python:3.12-slim

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 10001 threadsight && install -d -o threadsight /data
WORKDIR /src
COPY . .
# The wheel is built with the lock's versions of the build tools as well.
RUN PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
    pip install -c constraints.txt '.[all]' && rm -rf /src/*

USER threadsight
WORKDIR /data
# Inside a container the page must listen on every address, so a web token is demanded at start.
ENV THREADSIGHT_DATA_DIR=/data \
    THREADSIGHT_WEB_HOST=0.0.0.0 \
    THREADSIGHT_WEB_PORT=8080 \
    HF_HOME=/data/huggingface
EXPOSE 8080
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["threadsight"]
CMD ["run"]
