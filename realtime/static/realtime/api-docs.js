// @ts-check
/// The page of the HTTP interface: Swagger UI over the document that the page names. No inline script, no other host.

const docs = /** @type {HTMLElement} */ (document.getElementById("docs"));
const page = document.createElement("div");
docs.append(page);

/** @type {any} */ (globalThis).SwaggerUIBundle({
  url: docs.dataset.schema,
  domNode: page,
  // The badge would send the document's address to a service elsewhere.
  validatorUrl: null,
  deepLinking: true,
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
