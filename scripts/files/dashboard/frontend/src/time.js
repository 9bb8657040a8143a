const pad = (number) => String(number).padStart(2, "0");

export const clock = (now) => `${pad(now.getHours())}:${pad(now.getMinutes())}`;

export const date = (now) =>
  now.toLocaleDateString("en-GB", { weekday: "long", day: "numeric", month: "long" });

export function howLong(milliseconds) {
  const minutes = Math.max(0, Math.floor(milliseconds / 60_000));
  if (minutes < 1) return "a moment";
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${pad(minutes % 60)} min`;
  return `${Math.floor(hours / 24)} days`;
}
