const SILENCE = 15_000; // the backend speaks every five seconds
const SLOWEST_RETRY = 10_000;

async function get(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(5_000) });
  return [response.ok, await response.json()];
}

// Fetches the cats, then hears of each change. `live` is what the page says once both have arrived.
export function follow({ cats, state }) {
  let retry = 500;

  function connect() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/dashboard/ws`);
    let fetched = false;
    let heard = false;
    let silence;

    const arrived = (snapshot) => {
      cats(snapshot);
      if (fetched && heard) state("live");
    };
    const expect = () => {
      clearTimeout(silence);
      silence = setTimeout(() => socket.close(), SILENCE);
    };

    expect();
    get("/api/cats")
      .then(([ok, snapshot]) => {
        if (!ok) throw new Error("no cats");
        fetched = true;
        if (heard) state("live");
        else arrived(snapshot);
      })
      .catch(() => socket.close());
    socket.addEventListener("message", (message) => {
      heard = true;
      retry = 500;
      expect();
      arrived(JSON.parse(message.data));
    });
    socket.addEventListener("close", () => {
      clearTimeout(silence);
      state("offline");
      setTimeout(connect, retry);
      retry = Math.min(retry * 2, SLOWEST_RETRY);
    });
  }

  state("connecting");
  connect();
}

// Says now and then how the backend and its database are.
export function health(say) {
  const ask = () =>
    get("/api/health").then(
      ([ok]) => say(ok ? "the database answers" : "the database does not answer"),
      () => say("the backend does not answer"),
    );
  ask();
  setInterval(ask, 15_000);
}
