"""Sovereign, a control plane that is asked over HTTP, at a port of its own choice, which is the first line that it prints.

Its configuration is named by SOVEREIGN_CONFIG.
"""
import socket

import uvicorn
from sovereign.app import app

listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])
