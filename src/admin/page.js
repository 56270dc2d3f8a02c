// Looks again every two seconds. What a person is at, a click or a selection, is left alone.
const find = (id) => document.getElementById(id);
const live = find("live"), verdict = find("verdict"), lost = find("lost");
const inUse = () => document.hidden || live.querySelector(":active") || !getSelection().isCollapsed;
async function look() {
  try {
    const ask = { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(5000) };
    const answer = inUse() ? null : await fetch("status", ask);
    if (answer) {
      if (!answer.ok) throw new Error(answer.status);
      // The style bears another nonce than this page's policy has; it is here already.
      const text = (await answer.text()).replace(/<style[^]*?<\/style>/, "");
      const next = new DOMParser().parseFromString(text, "text/html");
      if (next.body.dataset.session !== document.body.dataset.session) return location.replace("status");
      if (!inUse()) {
        const focused = document.activeElement.id;
        live.replaceChildren(...next.getElementById("live").childNodes);
        if (focused) find(focused)?.focus({ preventScroll: true });
        const told = next.getElementById("verdict");
        verdict.className = told.className;
        // Only a change is to be read out.
        if (verdict.textContent !== told.textContent) verdict.textContent = told.textContent;
        document.title = next.title;
        find("facts").textContent = next.getElementById("facts").textContent;
        lost.hidden = true;
      }
    }
  } catch {
    lost.hidden = false;
  }
  setTimeout(look, 2000);
}
setTimeout(look, 2000);
