// Light, dark, or as the device. Loaded before anything is painted, so that nothing flashes.
(() => {
  const THEMES = { auto: "as the device", light: "light", dark: "dark" };
  const root = document.documentElement;

  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // storage may be forbidden
    }
  };

  const apply = (theme) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (!button) return;
    button.setAttribute("aria-label", `Colours: ${THEMES[theme]}`);
    button.querySelector("use").setAttribute("href", `page/icons.svg#${theme}`);
  };

  const next = () => {
    const names = Object.keys(THEMES);
    const theme = names[(names.indexOf(root.dataset.theme) + 1) % names.length];
    try {
      localStorage.setItem("theme", theme);
    } catch {
      // then it holds for this page only
    }
    apply(theme);
  };

  const first = Object.hasOwn(THEMES, stored() ?? "") ? stored() : "auto";
  apply(first);
  document.addEventListener("DOMContentLoaded", () => {
    apply(root.dataset.theme);
    document.getElementById("theme").addEventListener("click", next);
  });
})();
