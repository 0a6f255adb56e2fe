// Before the page is drawn, so that it does not flash in the other colours. Not a module: those come later.
try {
  const theme = localStorage.getItem("ods-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage may be off; then the system's choice holds */ }
