"""`serve`: echoes messages and prints its port. `chat URL`: has messages echoed."""
import asyncio
import sys

import websockets


async def echo(socket, *_):
    async for message in socket:
        await socket.send(message)


async def serve():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


async def chat(url):
    async with websockets.connect(url, max_size=None) as socket:
        for message in ("hello", "x" * 300_000, b"\x00\xff" * 1000):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.ping()
    print("all well")


asyncio.run(serve() if sys.argv[1] == "serve" else chat(sys.argv[2]))
