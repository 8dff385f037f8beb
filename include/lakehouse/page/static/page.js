// The page's only script: it follows Airflow's theme, and lets links to Airflow leave the frame that the page is in.
(() => {
  "use strict";

  const root = document.documentElement;

  // Airflow shows the page in a frame of its own origin; opened by itself, there is no frame.
  const outer = (() => {
    try {
      return window.parent !== window && window.parent.document ? window.parent.document : null;
    } catch {
      return null;
    }
  })();

  const stored = () => {
    for (const key of ["theme", "chakra-ui-color-mode"]) {
      try {
        const value = localStorage.getItem(key);
        if (value === "dark" || value === "light") return value;
      } catch {
        return "";
      }
    }
    return "";
  };

  const theme = () => {
    const classes = outer ? outer.documentElement.classList : null;
    if (classes && classes.contains("dark")) return "dark";
    if (classes && classes.contains("light")) return "light";
    return stored();
  };

  // Without a theme the style goes by what the system prefers.
  const follow = () => {
    const wanted = theme();
    if (wanted) root.dataset.theme = wanted;
    else delete root.dataset.theme;
  };

  follow();
  window.addEventListener("storage", follow);
  if (outer) {
    new MutationObserver(follow).observe(outer.documentElement, { attributes: true, attributeFilter: ["class"] });
  }

  // A frame in a sandbox may not navigate what is around it, but a link in the outer document may.
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest('a[target="_top"]') : null;
    if (!link || !outer || event.defaultPrevented) return;
    event.preventDefault();
    const twin = outer.createElement("a");
    twin.href = link.href;
    if (event.ctrlKey || event.metaKey || event.shiftKey) {
      twin.target = "_blank";
      twin.rel = "noopener";
    }
    outer.body.append(twin);
    twin.click();
    twin.remove();
  });
})();
