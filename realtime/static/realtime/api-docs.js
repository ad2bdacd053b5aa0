// @ts-check
/// The page of the HTTP interface: Swagger UI over the document that the page names. No inline script, no other host.

const docs = /** @type {HTMLElement} */ (document.getElementById("docs"));
const page = document.createElement("div");
docs.append(page);

/** The page around it has the main landmark. @type {Record<string, string>} */
const TAGS = { main: "div" };

/**
 * A component of Swagger UI with other elements, wherever they stand in what it draws itself. Swagger UI has put it into one
 * that catches errors: its only child is the component that is meant.
 *
 * @param {any} Original
 * @param {{ React: any }} system
 */
function retagged(Original, { React }) {
  /** @type {WeakMap<any, any>} */
  const known = new WeakMap();
  /** @param {any} node @returns {any} */
  const change = (node) => {
    if (Array.isArray(node)) return node.map(change);
    if (!React.isValidElement(node)) return node;
    const { children, ...props } = node.props;
    const changed = React.Children.count(children) === 0 ? [] : [children].flat().map(change);
    return React.createElement(TAGS[node.type] ?? node.type, { ...props, key: node.key, ref: node.ref }, ...changed);
  };
  /** @param {any} Inner */
  const within = (Inner) => {
    const made = known.get(Inner) ?? class extends Inner {
      render() {
        return change(super.render());
      }
    };
    known.set(Inner, made);
    return made;
  };
  return class extends Original {
    render() {
      const tree = super.render();
      const child = tree?.props?.children;
      if (!child?.type?.prototype?.isReactComponent) return change(tree);
      return React.cloneElement(tree, {}, React.createElement(within(child.type), { ...child.props, key: child.key }));
    }
  };
}

const accessible = () => ({
  wrapComponents: {
    BaseLayout: retagged,
    // It stands within a button, which may hold no link.
    /** @param {any} _Original @param {{ React: any }} system */
    DeepLink: (_Original, { React }) => (/** @type {{ text: any }} */ { text }) => React.createElement("span", { className: "nostyle" }, text),
    // There is one server: this one.
    ServersContainer: () => () => null,
  },
});

/** What Swagger UI leaves without a name, or calls by another than the one that is read. */
function nameParts() {
  for (const [selector, label] of /** @type {const} */ ([
    [".close-modal", "Close"],
    [".body-param__text", "Request body"],
    [".auth-btn-wrapper .btn.authorize", null],
    [".auth-btn-wrapper .btn-done", null],
  ])) {
    for (const node of page.querySelectorAll(selector)) {
      if (label === null) node.removeAttribute("aria-label");
      else if (!node.hasAttribute("aria-label")) node.setAttribute("aria-label", label);
    }
  }
  // The page has the first level.
  for (const [at, tag] of ["h3", "h4", "h5"].entries()) {
    for (const heading of page.querySelectorAll(tag)) {
      heading.setAttribute("role", "heading");
      heading.setAttribute("aria-level", String(at + 2));
    }
  }
}
new MutationObserver(nameParts).observe(page, { childList: true, subtree: true });

/** @type {any} */ (globalThis).SwaggerUIBundle({
  url: docs.dataset.schema,
  domNode: page,
  // The badge would send the document's address to a service elsewhere.
  validatorUrl: null,
  deepLinking: true,
  plugins: [accessible],
  defaultModelsExpandDepth: 0,
  /** @param {{ method?: string, url: string, headers: Record<string, string> }} request */
  requestInterceptor(request) {
    // What changes something needs Django's token beside the session cookie.
    const named = document.cookie.split("; ").find((each) => each.startsWith(`${docs.dataset.csrfCookie}=`));
    const here = new URL(request.url, location.href).origin === location.origin;
    if (named && here && request.method !== "GET") request.headers["X-CSRFToken"] = named.split("=")[1];
    return request;
  },
});
