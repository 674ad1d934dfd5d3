"""Weights & Biases without an account or a network; the run itself is in ``test_train.py``."""

import http.server
import socket
import threading

import pytest

from vistok.training import wandb_logger


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers every request with 404."""

    def do_GET(self):
        self.send_error(404)

    def log_message(self, *arguments):
        pass


def test_a_server_that_answers_is_there():
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert wandb_logger.answers(f"http://127.0.0.1:{server.server_port}")


def test_a_server_that_is_silent_or_gone_is_not():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert not wandb_logger.answers(url, 0.2)
    assert not wandb_logger.answers(url) and not wandb_logger.answers("no url")


def test_a_stored_key_counts_as_a_login(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_logger._logins() == set()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + 40 * "a")
    assert wandb_logger._logins() == {"api.wandb.ai"}


def test_a_refused_login_keeps_the_run_here(tmp_path, monkeypatch, capsys):
    """The server answers, and then does not know the key."""
    wandb = pytest.importorskip("wandb")

    class Logger:
        def __init__(self, offline=False, **arguments):
            self.offline = offline

        @property
        def experiment(self):
            if not self.offline:
                raise wandb.errors.AuthenticationError("API key\nis invalid")
            return type("Run", (), {"dir": str(tmp_path / "wandb" / "offline-run-1" / "files")})

    monkeypatch.setattr(wandb_logger, "WandbLogger", Logger)
    monkeypatch.setattr(wandb_logger, "problem", lambda: None)
    monkeypatch.setattr(wandb, "teardown", lambda: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert wandb_logger.wandb_logger().offline
    said = (
        "is offline, since AuthenticationError: API key is invalid; to upload this run later: wandb login && wandb sync"
    )
    assert f"{said} wandb/offline-run-1\n" in capsys.readouterr().out
