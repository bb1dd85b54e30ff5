// A picture of a plan. It is shown as an image: what is in an image runs no script and loads nothing.
import { el } from "./dom.js";

let address = null;

export function showPicture(target, { svg, diagnostics }, name) {
  if (address) URL.revokeObjectURL(address);
  address = null;
  if (!svg) {
    const why = diagnostics[0]?.message ?? "there is no picture";
    target.replaceChildren(el("p", { class: "said" }, why, " ", el("span", { class: "t-dim" }, diagnostics[0]?.hint ?? "")));
    return;
  }
  address = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  const image = el("img", { src: address, alt: name });
  const frame = el("div", { class: "frame fitted", tabindex: "0", role: "region", "aria-label": name }, image);
  const zoom = el("button", { type: "button", "aria-pressed": "false" }, "full size");
  zoom.addEventListener("click", () => {
    const fitted = frame.classList.toggle("fitted");
    zoom.setAttribute("aria-pressed", String(!fitted));
  });
  const save = el("a", { class: "button", href: address, download: `${name.replaceAll(" ", "_")}.svg` }, "download SVG");
  target.replaceChildren(el("div", { class: "tools" }, zoom, save), frame);
}
