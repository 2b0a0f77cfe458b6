"""Open a Streamlit page's WebSocket as a browser does, under any name."""

import socket


def opened(port, name, origin=""):
    """Return the status with which the page's WebSocket answers a browser that calls it ``name``."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        lines = [
            "GET /_stcore/stream HTTP/1.1",
            f"Host: {name}:{port}",
            f"Origin: http://{origin or name}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: streamlit",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(4096).split()[1])
