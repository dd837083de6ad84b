"""One file of routes per resource. Thin: who calls, what they ask for, the answer."""
