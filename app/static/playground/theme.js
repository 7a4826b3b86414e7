// Light or dark: as the system has it, until the button says otherwise.

const KEY = "dropserve-theme";
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

/** Calls `onChange` with whether the colours are dark: now, and when the system has others. */
export function followTheme(onChange) {
  const theme = remembered();
  if (theme !== null) document.documentElement.dataset.theme = theme;
  systemIsDark.addEventListener("change", () => onChange(isDark()));
  onChange(isDark());
}

/** Puts the button to work; `onChange` is called whenever the colours are others. */
export function watchTheme(button, onChange) {
  const show = (isDarkNow) => {
    button.textContent = isDarkNow ? "Light" : "Dark";
    button.setAttribute("aria-label", isDarkNow ? "Light colours" : "Dark colours");
    onChange();
  };
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    remember(theme);
    show(isDark());
  });
  followTheme(show);
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
