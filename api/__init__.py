"""HTTP: routes, schemas, auth and errors. Thin: who calls, what they ask for, the answer."""
