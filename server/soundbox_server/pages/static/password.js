// Sets a password with the secret of a mail's link, which stands behind the # and is in no request for a page. Its words
// come from the page.
const page = document.getElementById("page");
const choose = document.querySelector("#choose form");
const ask = document.querySelector("#ask form");
const password = document.getElementById("password");
const again = document.getElementById("again");
const email = document.getElementById("email");
const show = document.getElementById("show");
const PATIENCE_MS = 20_000;
const SECTIONS = ["choose", "done", "over", "cut", "ask", "sent"];

// Whatever a mail program has put behind the link is not a part of it.
const secret = () => /^#([A-Za-z0-9_-]+)/.exec(location.hash)?.[1];

function turnTo(...names) {
  for (const name of SECTIONS) document.getElementById(name).hidden = !names.includes(name);
}

function tell(name, ...others) {
  turnTo(name, ...others);
  document.querySelector(`#${name} h1`).focus();
}

function begin() {
  for (const link of document.querySelectorAll(".langs a")) link.hash = location.hash;
  if (secret()) turnTo("choose");
  else turnTo("cut", "ask");
}

function mark(field, word) {
  const place = document.getElementById(`${field.id}-wrong`);
  place.textContent = word ? place.dataset[word] : "";
  if (word) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

// Marks what is wrong, and leads to the first of it.
function fits(...checks) {
  for (const [field, word] of checks) mark(field, word);
  const wrong = checks.find(([, word]) => word);
  if (wrong) wrong[0].focus();
  return !wrong;
}

function complain(form, word, said) {
  const place = form.querySelector("[role=alert]");
  place.hidden = !word;
  place.textContent = word ? place.dataset[word] : "";
  if (said) {
    const words = document.createElement("span");
    words.lang = "en";
    words.textContent = ` (${said})`;
    place.append(words);
  }
}

// What the server said, once, however often the button is pressed: { status, said }, or null without an answer.
async function post(form, path, body) {
  const button = form.querySelector("button");
  const word = button.textContent;
  complain(form, "");
  button.disabled = true;
  button.textContent = button.dataset.busy;
  try {
    const answer = await fetch(page.dataset.door + path, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      credentials: "omit", signal: AbortSignal.timeout(PATIENCE_MS),
    });
    return { status: answer.status, said: await answer.json() };
  } catch {
    return null;
  } finally {
    button.disabled = false;
    button.textContent = word;
  }
}

const wordFor = (answer) => (answer === null ? "lost" : answer.status === 429 ? "busy" : "failed");

choose.addEventListener("submit", async (event) => {
  event.preventDefault();
  const length = [...password.value].length;
  const tooShort = length < Number(page.dataset.shortest) || length > Number(page.dataset.longest);
  const differs = !tooShort && again.value !== password.value;
  if (!fits([password, tooShort && "length"], [again, differs && "differs"])) return;
  const answer = await post(choose, "/reset-password", { token: secret(), password: password.value });
  if (answer?.status === 200) {
    choose.reset();
    history.replaceState(null, "", location.pathname + location.search);
    document.querySelector(".langs").hidden = true; // they would load a page that knows of no link
    tell("done");
  } else if (answer?.said.code === "LINK_EXPIRED") {
    choose.reset();
    tell("over", "ask");
  } else if (answer?.said.code === "WEAK_PASSWORD") {
    complain(choose, "weak", answer.said.detail);
    password.setAttribute("aria-invalid", "true");
    password.focus();
  } else {
    complain(choose, wordFor(answer));
  }
});

ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!fits([email, !email.checkValidity() && "address"])) return;
  const answer = await post(ask, "/forgot-password", { email: email.value });
  if (answer?.status === 202) tell("sent");
  else complain(ask, wordFor(answer));
});

show.addEventListener("change", () => {
  for (const field of [password, again]) field.type = show.checked ? "text" : "password";
});

addEventListener("hashchange", begin); // another link, pasted into this very tab
begin();
