/** Draws a picture of a few shapes, for people who have no picture at hand. */

const SIDE = 512;
const COLOURS = ["#e12828", "#2d5ad7", "#32a046", "#f5dc32", "#f58c1e", "#823caa"];
const ZONES = [
  [0.24, 0.26], [0.74, 0.26], [0.5, 0.5], [0.26, 0.74], [0.75, 0.74],
];
const PATHS = {
  circle: (context, r) => context.arc(0, 0, r, 0, 2 * Math.PI),
  square: (context, r) => context.rect(-r * 0.86, -r * 0.86, r * 1.72, r * 1.72),
  triangle: (context, r) => polygon(context, 3, () => r * 1.1),
  star: (context, r) => polygon(context, 10, (i) => (i % 2 ? r * 0.46 : r * 1.15)),
};

/** @returns {Promise<File>} a PNG with two or three shapes of different kinds and colours */
export async function drawShapes() {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  context.fillStyle = "#f4f4f4";
  context.fillRect(0, 0, SIDE, SIDE);
  const kinds = shuffled(Object.keys(PATHS)).slice(0, 2 + Math.round(Math.random()));
  const colours = shuffled(COLOURS);
  const zones = shuffled(ZONES);
  kinds.forEach((kind, index) => {
    context.save();
    context.translate(zones[index][0] * SIDE, zones[index][1] * SIDE);
    context.beginPath();
    PATHS[kind](context, SIDE * (0.13 + 0.03 * Math.random()));
    context.closePath();
    context.fillStyle = colours[index];
    context.fill();
    context.restore();
  });
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], "shapes.png", { type: "image/png" });
}

function polygon(context, numCorners, radius) {
  for (let i = 0; i < numCorners; i++) {
    const angle = (2 * Math.PI * i) / numCorners - Math.PI / 2;
    context.lineTo(radius(i) * Math.cos(angle), radius(i) * Math.sin(angle));
  }
}

function shuffled(values) {
  return values.map((value) => [Math.random(), value]).sort((a, b) => a[0] - b[0]).map(([, value]) => value);
}
