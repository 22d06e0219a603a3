"""The API's documentation as a page: Swagger UI from its package, so that the page loads nothing from elsewhere."""

from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from soundbox_server.errors import NotFound

# What the page loads; nothing else of the package is served.
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" type="image/png" href="/docs/swagger-ui/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """\
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
"""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def routes(app: FastAPI) -> list[Route]:
    """`/docs`, `/api-docs` (the references' name) and the files that the page loads."""
    kit = Path(str(resources.files("fastapi_swagger.resources")))

    async def page(_request: Request) -> Response:
        return Response(_PAGE.format(title=app.title), headers=_HEADERS, media_type="text/html")

    async def start(_request: Request) -> Response:
        return Response(_START, headers=_HEADERS, media_type="text/javascript")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _FILES:
            raise NotFound("The documentation has no such file.", file=name)
        return FileResponse(kit / name, headers=_HEADERS, media_type=_FILES[name])

    return [
        Route("/docs", page),
        Route("/api-docs", page),
        Route("/docs/start.js", start),
        Route("/docs/swagger-ui/{name}", file),
    ]
