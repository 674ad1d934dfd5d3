"""Weights & Biases as a logger that needs neither an account nor a network."""

import os
import shlex
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from vistok.terminal import say

PATIENCE = 5.0  # seconds in which the server has to answer


def wandb_logger(offline: bool = False, **arguments: Any) -> WandbLogger:
    """Lightning's logger, which keeps the run on this machine if there is no login or if the server does not answer.

    A run that is kept says why, and prints the command that uploads it. Nothing is asked in the terminal.

    Args:
        offline: True keeps the run on this machine without looking for the server.
        arguments: Further arguments of Lightning's ``WandbLogger``.
    """
    import wandb
    from wandb.errors import Error

    if rank_zero_only.rank != 0:  # only rank 0 logs
        return WandbLogger(offline=True, **arguments)
    wanted = os.environ.get("WANDB_MODE", "online")
    if wanted == "disabled":
        return WandbLogger(**arguments)
    reason = "logger.offline or WANDB_MODE says so" if offline or wanted in ("offline", "dryrun") else problem()
    if reason is None:
        try:
            logger = WandbLogger(**arguments)
            _ = logger.experiment  # connects
            return logger
        except Error as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            wandb.teardown()  # forgets the refused login
    logger = WandbLogger(offline=True, settings=wandb.Settings(mode="offline", silent=True), **arguments)
    _say_how_to_upload(logger, reason)
    return logger


@contextmanager
def finished(loggers: Sequence[Logger]) -> Iterator[None]:
    """Ends the runs of Weights & Biases after the block: the next job of a sweep has one of its own."""
    own = [logger for logger in loggers if isinstance(logger, WandbLogger) and rank_zero_only.rank == 0]
    status = 1
    try:
        yield
        status = 0
    finally:
        for logger in own:
            logger.experiment.finish(exit_code=status)


def problem() -> str | None:
    """Reason why a run cannot be sent to the server of Weights & Biases; None if it can."""
    import wandb

    settings = wandb.setup().settings
    host = urlsplit(settings.base_url).hostname or ""
    if not (settings.api_key or getattr(settings, "identity_token_file", None) or host in _logins()):
        return f"there is no login for {host}"
    return None if answers(settings.base_url) else f"{host} does not answer"


def _logins() -> set[str]:
    """Hosts for which ``wandb login`` has stored a key."""
    given = os.environ.get("NETRC")
    for file in [Path(given)] if given else [Path("~/.netrc"), Path("~/_netrc")]:
        try:
            return set(netrc(file.expanduser()).hosts)
        except (OSError, NetrcParseError, RuntimeError):  # none, unreadable, or a user without a home
            continue
    return set()


def answers(url: str, patience: float = PATIENCE) -> bool:
    """True if a server answers in time, whatever it says; proxies of the environment are used."""
    found = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=patience).close()
        except urllib.error.HTTPError:
            pass
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLCertVerificationError):  # wandb has settings for certificates
                return
        except (OSError, ValueError):
            return
        found.set()

    asking = threading.Thread(target=ask, daemon=True)  # a lookup of a name has no time limit of its own
    asking.start()
    asking.join(patience)
    return found.is_set()


def _say_how_to_upload(logger: WandbLogger, reason: str) -> None:
    folder = shlex.quote(os.path.relpath(os.path.dirname(logger.experiment.dir)))
    say(f"wandb is offline, since {reason}; to upload this run later: wandb login && wandb sync {folder}", "yellow")
