// Making elements. Text is always inserted as text, so what a caller wrote is never parsed as HTML.

const isSet = (value) => value !== null && value !== undefined && value !== false;

/** Make an element. `on…` properties are listeners; `true` sets an empty attribute; null and false are skipped. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (!isSet(value)) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter(isSet));
  return element;
}

/** A caller's text, whose direction does not affect the text around it. */
export const text = (value) => h("bdi", { class: "free" }, value);

/** An id, in a monospaced font. */
export const code = (value) => h("code", {}, value);

export function button(label, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, label);
}

export function input(name, value, properties = {}) {
  return h("input", { name, value, autocomplete: "off", dir: "auto", ...properties });
}

/** A control with its label and an optional hint. */
export function field(label, control, hint) {
  control.id ||= `field-${control.name}`;
  const hintId = `${control.id}-hint`;
  if (hint) control.setAttribute("aria-describedby", hintId);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control,
    hint && h("p", { class: "hint", id: hintId }, hint));
}

/** A drop-down list; `choices` are pairs of a value and its label. */
export function select(name, choices, chosen) {
  return h("select", { name, id: `field-${name}` },
    choices.map(([value, label]) => h("option", { value, selected: value === chosen }, label)));
}

/** A list of terms with their values; those without a value are skipped. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => isSet(value) && value !== "");
  return h("dl", { class: "facts" }, shown.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** A web address as a link, which the page itself never fetches; any other URI as text. */
export function address(uri) {
  const isWeb = /^https?:\/\//i.test(uri);
  return isWeb ? h("a", { href: uri, rel: "noreferrer noopener", target: "_blank", class: "free" }, uri) : text(uri);
}

export function badge(status) {
  return h("span", { class: "badge", "data-status": status }, status);
}

/** A time in the reader's time zone, with its age unless `age` is false. */
export function moment(value, { age = true } = {}) {
  if (!value) return null;
  const date = new Date(value);
  const shown = h("time", { datetime: value, title: date.toISOString() }, local(date));
  return age ? [shown, " ", h("span", { class: "age", "data-since": value }, ago(value))] : shown;
}

const ago = (value) => `${duration(Date.now() - new Date(value))} ago`;

setInterval(() => {
  for (const age of document.querySelectorAll("[data-since]")) age.textContent = ago(age.dataset.since);
}, 5_000);

// Sweden writes dates as ISO 8601 does.
const LOCAL = { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
  timeZoneName: "short" };
const local = (date) => date.toLocaleString("sv", LOCAL);

/** A duration of milliseconds in its two largest units. */
export function duration(milliseconds) {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const units = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  let left = Math.round(seconds);
  return units.slice(first, first + 2).map(([unit, size]) => {
    const count = Math.floor(left / size);
    left -= count * size;
    return count ? `${count} ${unit}` : "";
  }).filter(Boolean).join(" ");
}

/** Replace the content of `place`. The focus stays on the element with the same id or href, or goes to the page. */
export function replace(place, ...content) {
  const active = place.contains(document.activeElement) ? document.activeElement : null;
  const selector = active?.id ? `#${CSS.escape(active.id)}`
    : active?.getAttribute("href") && `[href="${CSS.escape(active.getAttribute("href"))}"]`;
  place.replaceChildren(...content.flat(Infinity).filter(Boolean));
  if (active) ((selector && place.querySelector(selector)) || document.getElementById("main")).focus({ preventScroll: true });
}

const shown = new WeakMap();

/** Replace the content of `place` if `data` have changed: else a press, a selection or a reader's place would be lost. */
export function refresh(place, data, make) {
  const now = JSON.stringify(data);
  if (shown.get(place) === now) return;
  shown.set(place, now);
  replace(place, make(data));
}

/** Set an element's text, unless it has it already: screen readers would read it again. */
export function setText(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Show the result of an action; `kind` is "danger", "done" or "". */
export function showOutcome(element, kind, ...content) {
  element.dataset.kind = kind;
  replace(element, ...content);
}

/** Have screen readers read a message, also if it is the same as the last. */
export function announce(message) {
  document.getElementById("announcer").textContent = message;
}
