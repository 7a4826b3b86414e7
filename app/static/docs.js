import { followTheme } from "./playground/theme.js";

followTheme((isDark) => document.documentElement.classList.toggle("dark-mode", isDark));

// The description names no server, and a proxy may serve all of it below a path, as it does this page.
const folder = new URL(".", location.href).href;

function belowTheFolder(request) {
  if (!request.loadSpec && !request.url.startsWith(folder)) {
    request.url = folder + request.url.slice(`${location.origin}/`.length);
  }
  return request;
}

// The validator badge would send the address of this server to a foreign host: null turns it off.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  requestInterceptor: belowTheFolder,
});
