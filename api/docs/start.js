// In a file of its own: the content security policy allows no inline script.
SwaggerUIBundle({url: "/openapi.yaml", dom_id: "#ui"});
