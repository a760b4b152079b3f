"""A proxy that parses nothing and stores nothing: what merely being between costs in Python.

python -m benchmarks.floor PORT UPSTREAM_PORT
"""

import asyncio
import gc
import sys
from asyncio import StreamReader, StreamWriter

READ = 65_536


async def copy(source: StreamReader, target: StreamWriter) -> None:
    try:
        while data := await source.read(READ):
            target.write(data)
            await target.drain()
    except ConnectionError:
        pass
    finally:
        target.close()


async def serve(port: int, upstream: int) -> None:
    async def connected(reader: StreamReader, writer: StreamWriter) -> None:
        source, target = await asyncio.open_connection("127.0.0.1", upstream)
        await asyncio.gather(copy(reader, target), copy(source, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=2000)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
