"""Connects twice under one server name, the second time with the session of the first, and asks for a host on each:
prints the status lines, and whether the second session was resumed. Takes PORT CA SERVER_NAME HOST."""

import socket
import ssl
import sys

port, ca, server_name, host = int(sys.argv[1]), *sys.argv[2:5]
context = ssl.create_default_context(cafile=ca)
# Sessions of TLS 1.2 are there when the handshake has ended.
context.maximum_version = ssl.TLSVersion.TLSv1_2
session = None
for _ in range(2):
    with socket.create_connection(("127.0.0.1", port)) as plain:
        with context.wrap_socket(plain, server_hostname=server_name, session=session) as tls:
            tls.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while chunk := tls.recv(4096):
                answer += chunk
            print(answer.split(b"\r\n")[0].decode(), tls.session_reused)
            session = tls.session
