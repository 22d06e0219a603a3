"""One bare MQTT 3.1.1 login, to learn whether the broker answers and takes a name and password."""

import asyncio
import ssl
import struct

_CONNACK_BYTES = 4
_DISCONNECT = b"\xe0\x00"


async def login(
    host: str,
    port: int,
    *,
    user: str,
    password: str,
    client_id: str = "",
    tls: ssl.SSLContext | None = None,
    timeout_s: float = 3.0,
) -> bool:
    """True when the broker accepts, False when it refuses the name or password.

    The login takes over a session that is open under this client id, which is the name when none is given. Raises
    OSError (TimeoutError is one) when there is no broker, or one that does not answer.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        try:
            writer.write(_connect_packet(client_id or user, user, password))
            answer = await reader.readexactly(_CONNACK_BYTES)
            writer.write(_DISCONNECT)
            await writer.drain()
        except asyncio.IncompleteReadError as cut:
            raise ConnectionAbortedError("the broker hung up instead of answering a login") from cut
        finally:
            writer.close()
    return answer[0] == 0x20 and answer[3] == 0


def _connect_packet(client_id: str, user: str, password: str) -> bytes:
    clean_session_with_user_and_password = 0b1100_0010
    body = (
        _text("MQTT")
        + struct.pack("!BBH", 4, clean_session_with_user_and_password, 30)  # protocol level, flags, keepalive seconds
        + _text(client_id)
        + _text(user)
        + _text(password)
    )
    return b"\x10" + _length(len(body)) + body


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!H", len(raw)) + raw


def _length(number: int) -> bytes:
    """MQTT's variable length: seven bits a byte, the top bit says that more follow."""
    out = bytearray()
    while True:
        number, low = divmod(number, 128)
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)
