// Six traditional patterns, each drawn as the tile of a repeating pattern, with the colours of its cloth.

const round = (number) => Number(number.toFixed(2));
const tile = (width, height, drawing) => ({ width: round(width), height: round(height), drawing });

function seigaiha() {
  let drawing = "";
  for (let row = 0; row <= 4; row += 1)
    for (let x = row % 2 ? -20 : 0; x <= 60; x += 40)
      for (const radius of [20, 14.5, 9, 3.5])
        drawing += `<circle cx="${x}" cy="${row * 10}" r="${radius}" fill="var(--cloth)"/>`;
  return tile(40, 20, drawing);
}

function asanoha() {
  const side = 30;
  const height = (side * Math.sqrt(3)) / 2;
  const lines = [];
  const triangle = (...corners) => {
    const middle = [0, 1].map((axis) => (corners[0][axis] + corners[1][axis] + corners[2][axis]) / 3);
    corners.forEach((corner, index) => lines.push([corner, corners[(index + 1) % 3]], [corner, middle]));
  };
  for (let row = 0; row < 2; row += 1)
    for (let column = -1; column <= 1; column += 1) {
      const x = column * side + (row * side) / 2;
      const y = row * height;
      triangle([x, y], [x + side, y], [x + side / 2, y + height]);
      triangle([x + side, y], [x + side / 2, y + height], [x + (side * 3) / 2, y + height]);
    }
  const path = lines.map(([from, to]) => `M${from.map(round)}L${to.map(round)}`).join("");
  return tile(side, height * 2, `<path d="${path}"/>`);
}

function shippo() {
  const circles = [[0, 0], [36, 0], [0, 36], [36, 36], [18, 18], [18, -18], [18, 54], [-18, 18], [54, 18]];
  return tile(36, 36, circles.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="18"/>`).join(""));
}

function yagasuri() {
  const feather = (x, y, turn) =>
    `<path fill="currentColor" stroke="none" d="M${x} ${y}l9 ${8 * turn}l9 ${-8 * turn}v22l-9 ${8 * turn}l-9 ${-8 * turn}z"/>`;
  return tile(36, 44, [-44, 0, 44].map((y) => feather(0, y, 1) + feather(18, y + 22, 1)).join(""));
}

function kikko() {
  const side = 16;
  const half = (side * Math.sqrt(3)) / 2;
  const hexagon = (x, y, size) => {
    const wide = (size * Math.sqrt(3)) / 2;
    const points = [[0, -size], [wide, -size / 2], [wide, size / 2], [0, size], [-wide, size / 2], [-wide, -size / 2]];
    return `<polygon points="${points.map(([a, b]) => `${round(x + a)},${round(y + b)}`).join(" ")}"/>`;
  };
  const centres = [[0, 0], [2 * half, 0], [half, side * 1.5], [0, side * 3], [2 * half, side * 3]];
  return tile(2 * half, side * 3, centres.map(([x, y]) => hexagon(x, y, side) + hexagon(x, y, side * 0.55)).join(""));
}

function sakura() {
  const blossom = (x, y, scale, turn) => {
    const petal = `<path d="M0 0C-7 -5 -7 -13 -2 -16L0 -13L2 -16C7 -13 7 -5 0 0z"/>`;
    const petals = [0, 72, 144, 216, 288].map((angle) => `<g transform="rotate(${angle})">${petal}</g>`).join("");
    return `<g fill="currentColor" stroke="none" transform="translate(${x} ${y}) rotate(${turn}) scale(${scale})">${petals}</g>`;
  };
  return tile(76, 76, blossom(20, 22, 1, 12) + blossom(57, 58, 0.72, 40) + blossom(60, 17, 0.4, 0) + blossom(18, 62, 0.46, 20));
}

// cloth and thread: what the cat wears; obi: its sash; ground: the card behind it, in the card's own thread.
const kimono = (pattern, cloth, thread, obi, ground) => ({
  cloth,
  thread,
  obi,
  ground,
  pattern,
  fabric: `url("data:image/svg+xml,${encodeURIComponent(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${pattern.width * 1.6}" height="${pattern.height * 1.6}" viewBox="0 0 ${pattern.width} ${pattern.height}" fill="none" stroke="#fff" color="#fff" style="--cloth:none">${pattern.drawing}</svg>`,
  )}")`,
});

export const kimonos = {
  sakura: kimono(sakura(), "#f3c3c6", "#fff4f1", "#8d2f4b", "#a33c57"),
  seigaiha: kimono(seigaiha(), "#2c4f8c", "#dfe9f5", "#d9a441", "#22407a"),
  asanoha: kimono(asanoha(), "#d9892b", "#fdeccb", "#4b2a20", "#a85a17"),
  shippo: kimono(shippo(), "#7a4b94", "#ecd9f2", "#e0b64f", "#573270"),
  yagasuri: kimono(yagasuri(), "#f1e8f2", "#6b3f7c", "#2f6f62", "#1f5f57"),
  kikko: kimono(kikko(), "#b23a2b", "#f6d9b8", "#1d2a4d", "#8e2b22"),
};
