"""The Events API over HTTP: signed POSTs to the app's request URL, with the retry number.

https://docs.slack.dev/authentication/verifying-requests-from-slack
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Literal
from urllib.parse import urlencode

import aiohttp

from tests.loopbacks.slack.delivery import Delivery, NotAcknowledged
from tests.loopbacks.slack.payloads import VERIFICATION_TOKEN
from tests.loopbacks.slack.state import Json

SIGNING_SECRET = "loopback-signing-secret"
Forgery = Literal["wrong_signature", "old_timestamp", "no_signature"]


class HttpMode:
    """`forgery`: how requests are signed wrongly, or None. `statuses`: the responses' statuses, oldest first."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.forgery: Forgery | None = None
        self.statuses: list[int] = []
        self._session = session

    async def bring(self, delivery: Delivery, within_seconds: float) -> Json | None:
        if delivery.kind == "events_api":
            body, content_type = json.dumps(delivery.body), "application/json"
        else:
            fields = delivery.body if delivery.kind == "slash_commands" else {"payload": json.dumps(delivery.body)}
            body, content_type = urlencode(fields), "application/x-www-form-urlencoded"
        headers = {"Content-Type": content_type}
        if delivery.retry_reasons:
            headers |= {"X-Slack-Retry-Num": str(delivery.num_tries - 1), "X-Slack-Retry-Reason": delivery.retry_reasons[-1]}
        try:
            status, answer = await self._post(body, headers, within_seconds)
        except TimeoutError:
            raise NotAcknowledged("http_timeout") from None
        except aiohttp.ClientError:
            raise NotAcknowledged("connection_failed") from None
        self.statuses.append(status)
        if not 200 <= status < 300:
            raise NotAcknowledged("http_error")
        return answer

    async def verify_url(self) -> bool:
        """Slack's check of a request URL: returns whether the challenge comes back."""
        challenge = {"token": VERIFICATION_TOKEN, "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}
        body = json.dumps(challenge | {"type": "url_verification"})
        status, answer = await self._post(body, {"Content-Type": "application/json"}, 3.0)
        return status == 200 and answer is not None and challenge["challenge"] in (answer.get("challenge"), answer.get("text"))

    async def _post(self, body: str, headers: dict[str, str], within_seconds: float) -> tuple[int, Json | None]:
        timeout = aiohttp.ClientTimeout(total=within_seconds)
        async with self._session.post(
            self.url, data=body.encode(), headers=headers | self._sign(body), timeout=timeout
        ) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(text) if is_json and text else {"text": text} if text else None

    def _sign(self, body: str) -> dict[str, str]:
        if self.forgery == "no_signature":
            return {}
        timestamp = str(int(time.time()) - (3_600 if self.forgery == "old_timestamp" else 0))
        secret = "another-secret" if self.forgery == "wrong_signature" else SIGNING_SECRET
        signature = hmac.new(secret.encode(), f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
        return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={signature}"}
