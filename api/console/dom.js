// Elements. Text goes in as text: nothing that a caller wrote is ever read as HTML.

/** Make an element. `on…` properties are listeners; `true` sets an empty attribute; null and false are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** What a caller wrote: isolated from the direction of the text around it. */
export const text = (value) => h("bdi", { class: "free" }, value);

/** An id, in letters of one width. */
export const code = (value) => h("code", {}, value);

export function button(label, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, label);
}

/** A labelled field; `field.input` is its control. */
export function field(label, input, hint) {
  input.id ||= `field-${input.name}`;
  const hintId = `${input.id}-hint`;
  if (hint) input.setAttribute("aria-describedby", hintId);
  const row = h("div", { class: "field" }, h("label", { for: input.id }, label), input,
    hint && h("p", { class: "hint", id: hintId }, hint));
  row.input = input;
  return row;
}

/** A list to choose from: pairs of a value and its label. */
export function select(name, choices, chosen) {
  return h("select", { name, id: `field-${name}` },
    choices.map(([value, label]) => h("option", { value, selected: value === chosen }, label)));
}

/** Terms and what they are; those that are null are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return h("dl", { class: "facts" }, shown.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

/** Where something is: a link to follow, never fetched by the page; text if it is no web address. */
export function address(uri) {
  const isWeb = /^https?:\/\//i.test(uri);
  return isWeb ? h("a", { href: uri, rel: "noreferrer noopener", target: "_blank", class: "free" }, uri) : text(uri);
}

export function badge(status) {
  return h("span", { class: "badge", "data-status": status }, status);
}

/** A moment in the reader's own time zone, and how long ago it is. */
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

function local(date) {
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} `
    + `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** Milliseconds in the largest two units. */
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

/** Put new content in place of the old; the focus stays where it was, by the element's id or address. */
export function replace(place, ...content) {
  const active = place.contains(document.activeElement) ? document.activeElement : null;
  const selector = active?.id ? `#${CSS.escape(active.id)}`
    : active?.getAttribute("href") && `[href="${CSS.escape(active.getAttribute("href"))}"]`;
  place.replaceChildren(...content.flat(Infinity).filter(Boolean));
  if (selector) place.querySelector(selector)?.focus({ preventScroll: true });
}

/** Give an element a text. One that it has already is not read out again. */
export function setText(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Tell those who do not see the page. */
export function announce(message) {
  setText(document.getElementById("announcer"), message);
}
