"""FastAPI with a scheduler on its event loop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from fastapi import FastAPI

import lifebeat

scheduler = AsyncIOScheduler()
telemetry = lifebeat.attach(scheduler, app_name="notes", app_version="1.4.2", api_key="phc_your_project_key")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    scheduler.start()
    yield
    await asyncio.to_thread(telemetry.close)
    scheduler.shutdown()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def index() -> dict[str, str]:
    return {"notes": "none yet"}
