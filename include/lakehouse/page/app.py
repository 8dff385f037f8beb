"""The page as a web application. Whoever mounts it says who may see it; nothing of it is served without that."""

# Annotations are read when routes are made, and some name what is local then: no lazy annotations in this module.

import logging
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from lakehouse.backup.drill_report import policy
from lakehouse.backup.drills import ID as DRILL_ID
from lakehouse.core.errors import LakehouseError, SettingsError
from lakehouse.core.names import TableName
from lakehouse.page.html import HEADERS, STATIC, message_page, overview_page, static, table_page
from lakehouse.page.links import FindDags
from lakehouse.page.overview import Choice
from lakehouse.page.view import LakeView

_BELOW = re.compile(r"/(tables|static|drills)/[^/]*\Z")
_A_YEAR = "private, max-age=31536000, immutable"


def make_app(view: Callable[[], LakeView], guards: Sequence[Any], find_dags: Callable[..., FindDags]) -> FastAPI:
    """The application. ``guards`` are dependencies that raise HTTPException where somebody may not see the page.

    ``find_dags`` is a dependency that gives what finds the DAGs of a table, for the person who asks.
    """
    app = FastAPI(title="Lakehouse", docs_url=None, redoc_url=None, openapi_url=None, dependencies=list(guards))

    @app.get("/", response_class=HTMLResponse)
    def overview(request: Request) -> Response:
        return _page(overview_page(view().overview(Choice.of(request.query_params))))

    @app.get("/tables/{name}", response_class=HTMLResponse)
    def table(name: str, dags_of: Annotated[FindDags, Depends(find_dags)]) -> Response:
        found = view().detail(_table(name))
        if found is None:
            raise HTTPException(404, f"There is no table {name} in the catalog, and no contract that makes one.")
        contract = found.row.contract
        return _page(table_page(found, dags_of(found.row.name, contract.name if contract else "")))

    @app.get("/drills/{drill_id}", response_class=HTMLResponse)
    def drill(drill_id: str) -> Response:
        if not DRILL_ID.match(drill_id):
            raise HTTPException(404, f"{drill_id} is not the id of a drill.")
        try:
            return HTMLResponse(view().drill_report(drill_id), headers={**HEADERS, "Content-Security-Policy": policy()})
        except LakehouseError as error:
            return _page(message_page("This report cannot be shown", error.what, error.todo, root=".."), 404)

    @app.get("/static/{name}")
    def file(name: str) -> Response:
        if name not in STATIC:
            raise HTTPException(404, "There is no such file.")
        headers = {**HEADERS, "Cache-Control": _A_YEAR}
        return Response(static(name), media_type=STATIC[name], headers=headers)

    app.add_exception_handler(HTTPException, _say)
    app.add_exception_handler(404, _say)
    app.add_exception_handler(405, _say)
    app.add_exception_handler(Exception, _say_unexpected)
    return app


def _table(name: str) -> TableName:
    try:
        return TableName.parse(name)
    except SettingsError:
        raise HTTPException(
            404, f"{name} is not the name of a table: they are written as silver.dim_customer."
        ) from None


def _page(html: str, status: int = 200) -> HTMLResponse:
    return HTMLResponse(html, status, headers=dict(HEADERS))


_TITLES = {
    401: ("You are not logged in", "Log in to Airflow, then open this page again."),
    403: ("You may not see this page", "Ask for a role that may read assets: the tables are Airflow's assets."),
    404: ("Not here", "The list of tables has all there are; the last drill's report is linked above it."),
    405: ("Not here", "This page only shows; use the DAGs or the `lakehouse` commands to change something."),
}


async def _say(request: Request, error: Exception) -> Response:
    """An error that a person meets by what they asked for."""
    status = getattr(error, "status_code", 500)
    title, todo = _TITLES.get(status, ("That did not work", "Reload the page; the API server's log says more."))
    detail = str(getattr(error, "detail", ""))
    return _page(message_page(title, detail, todo, root=_root(request)), status)


async def _say_unexpected(request: Request, error: Exception) -> Response:
    """An error of the page itself: told in words, with what it was in the log only."""
    logging.getLogger(__name__).error("the Lakehouse page failed on %s", request.url.path, exc_info=error)
    known = isinstance(error, LakehouseError)
    text = error.what if isinstance(error, LakehouseError) else "The page met an error of its own."
    todo = error.todo if isinstance(error, LakehouseError) and known else "The API server's log says more."
    return _page(message_page("That did not work", text, todo, root=_root(request)), 500)


def _root(request: Request) -> str:
    """The way from the address that was asked for to the page's root, wherever that is mounted."""
    return ".." if _BELOW.search(request.url.path) else "."
