"""A trained model as an ML backend of Label Studio, which asks it for the regions of every task that is opened.

    pip install 'sat_peft[label_studio]'
    sat-peft label-studio --run runs/NAME

Label Studio connects to its address under *Settings, Model*. The labels of the project are matched to the classes of
the model by their names, and its interface decides what is drawn: `RectangleLabels` get boxes, `PolygonLabels`
outlines, `BrushLabels` masks. Images come from where Label Studio has them, by its own SDK: uploads, local files, cloud
storage and addresses. The address and the token for that are those that Label Studio sends, unless the environment has
both `LABEL_STUDIO_URL` and `LABEL_STUDIO_API_KEY`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from label_studio_sdk._extensions.label_studio_tools.core.utils.io import get_local_path
from label_studio_sdk.converter import brush
from label_studio_sdk.label_interface import LabelInterface

from sat_peft.data.formats.label_studio import Control, polygon_values, rectangle_values, regions
from sat_peft.errors import UsageError
from sat_peft.prediction.found import Localization
from sat_peft.prediction.localizer import Localizer

logger = logging.getLogger(__name__)

# Of a request in bytes. Tasks come without their images.
_LARGEST_REQUEST = 64 * 2**20


def _boxes(found: Localization) -> list[dict]:
    return rectangle_values(found.image_size, found.boxes)


def _outlines(found: Localization) -> list[dict]:
    return polygon_values(found.image_size, [points for region in found.polygons() for points in region])


def _masks(found: Localization) -> list[dict]:
    return [{"format": "rle", "rle": brush.mask2rle(np.uint8(255) * mask)} for mask in found.masks()]


# The tags that the model can draw with, by preference, and what they have of a region.
_TAGS: dict[str, Callable[[Localization], list[dict]]] = {
    "RectangleLabels": _boxes,
    "PolygonLabels": _outlines,
    "BrushLabels": _masks,
}


@dataclass(frozen=True)
class _Interface:
    """What a labeling interface wants: `values` of regions of `control`, for the image in the field `field`."""

    control: Control
    field: str
    labels: frozenset[str]
    values: Callable[[Localization], list[dict]]


class Backend:
    """Answers what Label Studio asks of an ML backend.

    Args:
        localizer: the trained model.
        multi: a region for every component of the foreground, instead of the largest one alone.

    Attributes:
        version: what Label Studio keeps predictions apart by: the model, and all that its regions depend on.
    """

    def __init__(self, localizer: Localizer, *, multi: bool = False):
        self._localizer, self._multi = localizer, multi
        settings = [f"threshold {localizer.threshold.value:g}", *(["multi"] if multi else [])]
        settings += [localizer.tta] if localizer.tta != "none" else []
        self.version = f"{localizer.version} ({', '.join(settings)})"
        self._one_at_a_time = threading.Lock()
        # Address and token of the Label Studio that a project is in: always both of one origin, so that no token of the
        # environment goes to an address that a request names.
        own = os.environ.get("LABEL_STUDIO_URL"), os.environ.get("LABEL_STUDIO_API_KEY")
        self._own_host = own if all(own) else None
        self._hosts: dict[str, tuple[str, str]] = {}

    def health(self, request: dict) -> dict:
        """That the backend is there."""
        return {"status": "UP", "model_class": "SpatialAwareToken"}

    def versions(self, request: dict) -> dict:
        """The one version of the model."""
        return {"versions": [self.version]}

    def setup(self, request: dict) -> dict:
        """Checks that the model can draw in a project, and notes where its images are.

        Raises:
            UsageError: a labeling interface without anything that the model draws, or without any of its classes.
        """
        self._interface(request.get("schema"))
        host = request.get("hostname"), request.get("access_token")
        if all(host):
            self._hosts[str(request.get("project"))] = host
        return {"model_version": self.version}

    def predict(self, request: dict) -> dict:
        """A prediction for each of the `tasks`, in their order.

        The regions are those of the most probable class; none where the project lacks its label. A task whose image
        cannot be had has no prediction, and the reason is logged.

        Raises:
            UsageError: as `setup`.
        """
        interface = self._interface(request.get("label_config"))
        tasks = request.get("tasks")
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise UsageError("a request for predictions has a list of tasks in its field 'tasks'.")
        host = self._own_host or self._hosts.get(str(request.get("project")), (None, None))
        return {"results": [self._prediction(task, interface, host) for task in tasks]}

    def webhook(self, request: dict) -> dict:
        """What happens to annotations changes nothing: the model is trained by `sat-peft train`.

        Raises:
            UsageError: a training was asked for.
        """
        if request.get("action") == "START_TRAINING":
            raise UsageError(
                "this model is trained by `sat-peft train`; export the annotations as COCO and train on them"
            )
        return {"status": "ignored"}

    def _interface(self, config: Any) -> _Interface:
        wanted = " or ".join(f"<{tag}>" for tag in _TAGS)
        try:
            parsed = LabelInterface(config)
        # The SDK raises errors of lxml, xmljson and others.
        except Exception as error:
            raise UsageError(f"the labeling interface cannot be read: {error}") from error
        for tag, values in _TAGS.items():
            try:
                name, object_name, field = parsed.get_first_tag_occurence(tag, "Image")
            except ValueError:
                continue
            labels = frozenset(parsed.get_control(name).labels)
            if not labels.intersection(self._localizer.class_names):
                raise UsageError(
                    f"none of the labels of <{tag}> ({_some(labels)}) is a class of the model "
                    f"({_some(self._localizer.class_names)}); names must be the same"
                )
            return _Interface(Control(tag.lower(), name, object_name), field, labels, values)
        raise UsageError(f"the labeling interface has no {wanted} on an <Image>")

    def _prediction(self, task: dict, interface: _Interface, host: tuple[str | None, str | None]) -> dict | list:
        hostname, token = host
        with tempfile.TemporaryDirectory() as folder:
            try:
                path = get_local_path(
                    task["data"][interface.field],
                    cache_dir=folder,
                    hostname=hostname,
                    access_token=token,
                    task_id=task.get("id"),
                )
                with self._one_at_a_time:
                    [found] = self._localizer(path, multi=self._multi)
            # Whatever one image does, the others are answered: files, networks, fields that are not there.
            except Exception as error:
                logger.warning("task %s has no prediction: %s", task.get("id"), error)
                # Unlike a prediction without regions, it is asked for again.
                return []
        values = interface.values(found) if found.label in interface.labels else []
        return {
            "result": list(regions(interface.control, found.image_size, found.label, found.score, values)),
            "score": found.score,
            "model_version": self.version,
        }


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


class _Refused(Exception):
    def __init__(self, status: HTTPStatus, message: str):
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: BackendServer

    def do_GET(self) -> None:
        self._answer(dict, self.server.gets)

    def do_POST(self) -> None:
        self._answer(self._request, self.server.posts)

    def _answer(self, request: Callable[[], dict], routes: dict[str, Callable[[dict], dict]]) -> None:
        try:
            route = routes.get(self.path.split("?")[0].rstrip("/"))
            if route is None:
                raise _Refused(HTTPStatus.NOT_FOUND, f"unknown path; the paths are {', '.join(filter(None, routes))}")
            try:
                answer = route(request())
            except UsageError as error:
                raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        except _Refused as error:
            # What may be left of the request is not to be read as another.
            self.close_connection = True
            # Label Studio shows the line of the status, not what follows it.
            line = " ".join(str(error).split()).encode("ascii", "replace").decode()
            self._send(error.status, {"error": str(error)}, line)
        else:
            self._send(HTTPStatus.OK, answer)

    def _request(self) -> dict:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _LARGEST_REQUEST:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request tells its length, at most {_LARGEST_REQUEST} bytes"
            )
        try:
            request = json.loads(self.rfile.read(int(length)))
        except ValueError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"a request is JSON: {error}") from error
        if not isinstance(request, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "a request is a JSON object")
        return request

    def _send(self, status: HTTPStatus, content: dict, line: str | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status, line)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args) -> None:
        logger.debug(format, *args)


class BackendServer(ThreadingHTTPServer):
    """The server of a backend; `serve_forever` until it is interrupted.

    Args:
        backend: what answers.
        host: address to listen at.
        port: port; 0 for a free one, which `server_port` then is.

    Raises:
        UsageError: the address cannot be had.
    """

    daemon_threads = True

    def __init__(self, backend: Backend, host: str, port: int):
        self.gets = {"": backend.health, "/health": backend.health, "/versions": backend.versions}
        self.posts = {"/setup": backend.setup, "/predict": backend.predict, "/webhook": backend.webhook}
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UsageError(f"no backend at {host}, port {port}: {error}. Take another --host or --port.") from error
