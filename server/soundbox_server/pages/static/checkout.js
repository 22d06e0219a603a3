// Keeps the bill as the server has it, and counts down. Its words come from the page.
const bill = document.getElementById("bill");
const lost = document.getElementById("lost");
const news = document.getElementById("news");
const LOST_MS = 10_000;
const SILENT_MS = 25_000; // the server says something every 15 s
const HIDDEN_MS = 5_000;
const SHORTEST_MS = 2_000;
const LONGEST_MS = 30_000;

let source = null;
let ahead = 0; // how far the server's clock is ahead of this one's, ms
let heardAt = Date.now();
let pause = SHORTEST_MS; // before a stream that was refused is asked for again
let openAt = 0;
let closing = 0;

function countDown() {
  const place = bill.querySelector(".countdown");
  if (!place) return;
  const left = Number(place.dataset.until) - Date.now() - ahead;
  const label = place.querySelector(".muted");
  const time = place.querySelector("time");
  if (left <= 0 || !time) {
    place.textContent = place.dataset.over;
    return;
  }
  const seconds = Math.ceil(left / 1000);
  const two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  label.textContent = place.dataset.words;
  time.textContent = (hours ? `${hours}:` : "") + `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}

function settle() {
  const place = bill.querySelector(".countdown");
  if (place) ahead = Number(place.dataset.now) - Date.now();
  for (const button of bill.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = button.dataset.done;
    });
  }
  for (const form of bill.querySelectorAll("form")) {
    form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
  }
  countDown();
}

function heard() {
  heardAt = Date.now();
  pause = SHORTEST_MS;
  lost.hidden = true;
  bill.classList.remove("stale");
}

function open() {
  if (source || bill.dataset.live !== "yes") return;
  const address = new URL(bill.dataset.events, location.href);
  address.searchParams.set("seen", bill.dataset.version);
  openAt = Date.now();
  source = new EventSource(address);
  source.addEventListener("open", heard);
  source.addEventListener("here", heard);
  source.addEventListener("bill", (event) => {
    heard();
    const focused = bill.contains(document.activeElement);
    bill.innerHTML = event.data;
    bill.dataset.version = event.lastEventId;
    settle();
    const chip = bill.querySelector(".chip");
    news.textContent = chip ? chip.textContent.trim() : "";
    if (focused) { bill.tabIndex = -1; bill.focus(); }
  });
  source.addEventListener("end", (event) => {
    close();
    if (event.data === "over") bill.dataset.live = "no";
    else openAt = Date.now() + (event.data === "closing" ? SHORTEST_MS : LONGEST_MS);
  });
}

function close() {
  if (source) source.close();
  source = null;
}

// Every second: a stream that is refused, dead or ended is asked for again, and a page that hears nothing says so.
function look() {
  countDown();
  const now = Date.now();
  if (bill.dataset.live !== "yes" || document.hidden) return;
  if (source && now - heardAt > SILENT_MS && now - openAt > SILENT_MS) close();
  if (source && source.readyState === EventSource.CLOSED) {
    close();
    openAt = now + pause * (0.5 + Math.random());
    pause = Math.min(pause * 2, LONGEST_MS);
  }
  if (!source && now >= openAt) open();
  const alive = source && source.readyState === EventSource.OPEN;
  if (!alive && now - heardAt > LOST_MS && lost.hidden) {
    lost.textContent = `${lost.dataset.words} ${new Date(heardAt).toLocaleTimeString()}`;
    lost.hidden = false;
    bill.classList.add("stale");
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(closing);
  if (document.hidden) {
    closing = setTimeout(close, HIDDEN_MS);
    return;
  }
  close(); // it may have died unnoticed; what was missed comes with the new one
  open();
});
settle();
open();
setInterval(look, 1_000);
