"""Long checks of a checkout: mangled files, killed runs, the manual's code."""
