"""A plain asyncio program that works until a signal stops it."""

import asyncio
import signal

from apscheduler.schedulers.asyncio import AsyncIOScheduler

import lifebeat

scheduler = AsyncIOScheduler()
lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key")


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    scheduler.start()
    await stop.wait()
    scheduler.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
