// As much of a document as page.js asks for: elements, simple selectors, events that bubble.
"use strict";
class Element {
  constructor(tag, attributes = {}) {
    Object.assign(this, { tag, attributes, nodes: [], parentElement: null, style: {} });
    this.dataset = new Proxy({}, {
      get: (_, name) => this.attributes[data(name)],
      set: (_, name, value) => { this.attributes[data(name)] = String(value); return true; },
      deleteProperty: (_, name) => delete this.attributes[data(name)],
    });
  }
  get children() { return this.nodes.filter((node) => node instanceof Element); }
  get textContent() { return this.nodes.map((n) => (n instanceof Element ? n.textContent : n)).join(""); }
  set textContent(text) { this.nodes = [String(text)]; }
  get className() { return this.attributes.class || ""; }
  set className(name) { this.attributes.class = name; }
  get tabIndex() { return Number(this.attributes.tabindex); }
  set tabIndex(number) { this.attributes.tabindex = String(number); }
  get tBodies() { return this.children.filter((child) => child.tag === "tbody"); }
  get rows() { return this.children.filter((child) => child.tag === "tr"); }
  get cells() { return this.children; }
  get cellIndex() { return this.parentElement.children.indexOf(this); }
  getAttribute(name) { return this.attributes[name] ?? null; }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  removeAttribute(name) { delete this.attributes[name]; }
  append(...nodes) { for (const node of nodes) this.insertBefore(node, null); }
  replaceChildren(...nodes) { this.nodes = []; this.append(...nodes); }
  insertBefore(node, before) {
    const old = node.parentElement;
    if (old) old.nodes.splice(old.nodes.indexOf(node), 1);
    this.nodes.splice(before ? this.nodes.indexOf(before) : this.nodes.length, 0, node);
    if (node instanceof Element) node.parentElement = this;
  }
  matches(selector) { return chain(this, selector.split(" ")); }
  closest(selector) { return this.matches(selector) ? this : this.parentElement?.closest(selector) ?? null; }
  querySelectorAll(selector) {
    return this.children.flatMap((c) => [...(c.matches(selector) ? [c] : []), ...c.querySelectorAll(selector)]);
  }
  querySelector(selector) { return this.querySelectorAll(selector)[0] ?? null; }
  addEventListener(type, listener) { ((this.listeners ??= {})[type] ??= []).push(listener); }
  focus() {
    if (document.activeElement) fire(document.activeElement, "focusout");
    document.activeElement = this;
    fire(this, "focusin");
  }
  getBoundingClientRect() { return { left: 0, top: 0, right: 100, bottom: 20, width: 100, height: 20 }; }
  scrollIntoView() {}
}
for (const name of ["hidden", "open", "checked"]) {
  Object.defineProperty(Element.prototype, name, {
    get() { return name in this.attributes; },
    set(yes) { if (yes) this.attributes[name] = ""; else delete this.attributes[name]; },
  });
}
const data = (name) => "data-" + name.replace(/[A-Z]/g, (letter) => "-" + letter.toLowerCase());
function chain(element, parts) {
  if (!simple(element, parts[parts.length - 1])) return false;
  if (parts.length === 1) return true;
  for (let above = element.parentElement; above; above = above.parentElement) {
    if (chain(above, parts.slice(0, -1))) return true;
  }
  return false;
}
function simple(element, selector) {
  const [, tag, rest] = /^([a-z]*)(.*)$/.exec(selector);
  const parts = rest.match(/\.[\w-]+|#[\w-]+|\[[^\]]+\]|:not\([^)]+\)/g) || [];
  if (parts.join("") !== rest) throw new Error("not a selector of this document: " + selector);
  return (!tag || element.tag === tag) && parts.every((part) => {
    if (part[0] === ".") return element.className.split(" ").includes(part.slice(1));
    if (part[0] === "#") return element.attributes.id === part.slice(1);
    if (part[0] === ":") return !simple(element, part.slice(5, -1));
    const [, name, , value] = /^\[([\w-]+)(="([^"]*)")?\]$/.exec(part);
    return name in element.attributes && (value === undefined || element.attributes[name] === value);
  });
}
function fire(target, type, more = {}) {
  const event = { type, target, preventDefault() { this.prevented = true; }, ...more };
  for (let at = target; at; at = at.parentElement) {
    for (const listener of at.listeners?.[type] || []) listener(event);
  }
  return event;
}
const listeners = {};
const addEventListener = (type, listener) => { (listeners[type] ??= []).push(listener); };
const innerWidth = 1280, innerHeight = 800, scrollX = 0, scrollY = 0;
const matchMedia = () => ({ matches: false });
const document = new Element("#document");
document.createElement = (tag) => new Element(tag);
document.getElementById = (name) => document.querySelector("#" + name);
function build([tag, attributes, nodes]) {
  const element = new Element(tag, attributes);
  element.append(...nodes.map((node) => (typeof node === "string" ? node : build(node))));
  return element;
}
function load(tree) {
  document.documentElement = build(tree);
  document.append(document.documentElement);
}
