import { kimonos } from "./kimonos.js";

const coats = {
  cream: { fur: "#f7e6c8", shade: "#e3c69a", line: "#5b4632", eye: "#6f9a5b" },
  ink: { fur: "#35323f", shade: "#4c4858", line: "#17151d", eye: "#e8c14d", face: "#b9b3c6" },
  ginger: { fur: "#eda253", shade: "#c9742a", line: "#5a2f14", eye: "#6b8f3f", marks: "tabby" },
  calico: { fur: "#fbf3e6", shade: "#e6d6bf", line: "#4e3a2c", eye: "#4f8a8b", marks: "calico" },
  grey: { fur: "#a9b0bc", shade: "#7f8896", line: "#343a46", eye: "#d8a13a", marks: "tabby" },
  tuxedo: { fur: "#2f3038", shade: "#45464f", line: "#14151a", eye: "#9cc56b", marks: "tuxedo", face: "#8d8c99" },
};

const HEAD = "M120 44C166 44 193 70 193 104C193 140 160 158 120 158C80 158 47 140 47 104C47 70 74 44 120 44Z";
const EAR = "M56 88C46 50 50 18 62 15C74 14 98 36 110 52C90 58 70 70 56 88Z";
const INNER_EAR = "M64 72C58 50 60 34 66 30C74 32 88 44 95 53C82 58 72 64 64 72Z";

const mirrored = (drawing) => `<g transform="matrix(-1 0 0 1 240 0)">${drawing}</g>`;
const both = (drawing) => drawing + mirrored(drawing);

const marks = {
  tabby: ({ shade }) =>
    `<g fill="none" stroke="${shade}" stroke-width="7" stroke-linecap="round">
      <path d="M120 48v22"/>${both('<path d="M101 50q1 10 5 17M49 108l17 2M54 126l15 -2"/>')}</g>`,
  calico: () =>
    `<path fill="#df8a3e" d="M40 40L112 30C116 62 104 84 76 92C60 96 48 92 40 96Z"/>
     <path fill="#3c3540" d="M200 30L146 30C140 56 150 76 172 80C188 82 196 92 204 90Z"/>`,
  tuxedo: () =>
    `<path fill="#fbf6ec" d="M120 84C126 96 152 112 152 134C152 152 138 162 120 162C102 162 88 152 88 134C88 112 114 96 120 84Z"/>`,
};

const eyes = ({ eye, line, face = line }, asleep) =>
  both(
    asleep
      ? `<path d="M78 108q12 11 24 0" fill="none" stroke="${face}" stroke-width="4" stroke-linecap="round"/>`
      : `<g class="eye"><ellipse cx="90" cy="104" rx="12.500" ry="13.500" fill="${eye}" stroke="${line}" stroke-width="2"/>
         <ellipse cx="91" cy="104" rx="6.500" ry="11" fill="#17151d"/><circle cx="94" cy="98" r="3.600" fill="#fff"/></g>`,
  );

const dreams = `<g class="dreams" fill="currentColor">
  <text x="186" y="50" font-size="24">z</text><text x="204" y="32" font-size="19">z</text><text x="218" y="17" font-size="14">z</text></g>`;

let drawn = 0;

// A picture of a cat in its kimono, as markup. Unknown coats and kimonos get the first ones.
export function kitten({ coat, kimono, asleep }) {
  const fur = coats[coat] ?? coats.cream;
  const wear = kimonos[kimono] ?? kimonos.sakura;
  const id = `kitten-${(drawn += 1)}`;
  const { width, height, drawing } = wear.pattern;
  const { line, face = line } = fur;
  const outline = `stroke="${line}" stroke-width="3" stroke-linejoin="round"`;

  return `<svg viewBox="0 0 240 250" aria-hidden="true">
    <defs>
      <pattern id="${id}" width="${width}" height="${height}" patternUnits="userSpaceOnUse" patternTransform="translate(4 6)">
        <g fill="none" stroke="${wear.thread}" stroke-width="1.600" color="${wear.thread}" style="--cloth:${wear.cloth}">${drawing}</g>
      </pattern>
      <clipPath id="${id}-head"><path d="${HEAD}"/></clipPath>
      <clipPath id="${id}-body"><path d="M16 256C18 194 62 148 120 148C178 148 222 194 224 256Z"/></clipPath>
    </defs>
    <g class="body">
      <g clip-path="url(#${id}-body)">
        <rect width="240" height="256" fill="${wear.cloth}"/>
        <rect width="240" height="256" fill="url(#${id})"/>
        <path d="M62 256C58 232 60 214 70 196M178 256C182 232 180 214 170 196" fill="none" stroke="${line}" stroke-opacity=".35" stroke-width="3"/>
        <path d="M84 140L120 206L156 140Z" fill="${fur.fur}"/>
        <path d="M150 138L168 146L126 226L104 226Z" fill="#fffaf0"/>
        <path d="M156 138L176 148L132 230L110 226Z" fill="${wear.obi}"/>
        <path d="M90 138L72 146L114 226L136 226Z" fill="#fffaf0"/>
        <path d="M84 138L64 148L108 230L130 226Z" fill="${wear.obi}"/>
        <rect y="222" width="240" height="40" fill="${wear.obi}"/>
        <rect y="234" width="240" height="6" fill="${wear.thread}" opacity=".85"/>
        <circle cx="120" cy="237" r="7" fill="${wear.thread}"/>
      </g>
    </g>
    <g class="head">
      ${both(`<path d="${EAR}" fill="${fur.fur}" ${outline}/><path d="${INNER_EAR}" fill="#e9a79b" opacity=".9"/>`)}
      <path d="${HEAD}" fill="${fur.fur}" ${outline}/>
      <g clip-path="url(#${id}-head)">
        <ellipse cx="120" cy="164" rx="72" ry="22" fill="${fur.shade}" opacity=".35"/>${fur.marks ? marks[fur.marks](fur) : ""}</g>
      ${both('<ellipse cx="70" cy="126" rx="12" ry="7" fill="#ef8f86" opacity=".45"/>')}
      ${eyes(fur, asleep)}
      <path d="M113.500 120h13q1 4 -6.500 8q-7.500 -4 -6.500 -8z" fill="#d9776d"/>
      <path d="M120 128v4q-5 9 -14 5M120 132q5 9 14 5" fill="none" stroke="${fur.marks === "tuxedo" ? line : face}" stroke-width="3" stroke-linecap="round"/>
      <g stroke="${face}" stroke-width="2" stroke-linecap="round" opacity=".6">${both('<path d="M60 116L28 110M60 124L26 127M63 132L34 144"/>')}</g>
    </g>
    ${asleep ? dreams : ""}
  </svg>`;
}
