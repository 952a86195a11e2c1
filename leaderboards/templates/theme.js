themeButton();
