// Light or dark: as the system has it, until the button says otherwise.

const KEY = "dropserve-theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

/** Puts the button to work; `onChange` is called whenever the colours are others. */
export function watchTheme(button, onChange) {
  const apply = (theme) => {
    if (theme !== null) document.documentElement.dataset.theme = theme;
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
    onChange();
  };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    apply(theme);
    remember(theme);
  });
  systemIsDark.addEventListener("change", () => apply(null));
  apply(remembered());
}

function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme === undefined ? systemIsDark.matches : theme === "dark";
}

// Storage may be forbidden; the choice then lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    /* see above */
  }
}
