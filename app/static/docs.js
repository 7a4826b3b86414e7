import { followTheme } from "./playground/theme.js";

followTheme((isDark) => document.documentElement.classList.toggle("dark-mode", isDark));

// The validator badge would send the address of this server to a foreign host: null turns it off.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
});
