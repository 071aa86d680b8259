"""Look at pages in headless Chromium, by the DevTools protocol over pipes: it needs no package."""

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pytest

needs_chromium = pytest.mark.skipif(not which('chromium'), reason='chromium is not installed')
WIDTH, STRIP, SECONDS = 1200, 4000, 60  # px of the window and of one screenshot; until an answer has to be there
OPTIONS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--hide-scrollbars')
COMPLAINTS = ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown', 'Log.entryAdded')
# every image of the page, by its decoded pixels: [natural width, standard deviation of the grey values]
IMAGES = """(async () => {
    document.querySelectorAll('details').forEach(one => { one.open = true });
    const addresses = new Set([...document.images].map(one => one.currentSrc));
    document.querySelectorAll('svg image').forEach(one => addresses.add(one.href.baseVal));
    for (const one of document.querySelectorAll('.im'))
        addresses.add(getComputedStyle(one).backgroundImage.replace(/^url\\("(.*)"\\)$/, '$1'));
    const found = [];
    for (const address of addresses) {
        const image = new Image();
        image.src = address;
        await image.decode().catch(() => null);
        if (!image.naturalWidth) { found.push([0, 0]); continue; }
        const canvas = new OffscreenCanvas(64, 64).getContext('2d');
        canvas.drawImage(image, 0, 0, 64, 64);
        const data = canvas.getImageData(0, 0, 64, 64).data;
        const grey = Array.from({length: 4096}, (_, at) => (data[4 * at] + data[4 * at + 1] + data[4 * at + 2]) / 3);
        const mean = grey.reduce((sum, one) => sum + one, 0) / grey.length;
        found.push([image.naturalWidth, Math.sqrt(grey.reduce((s, one) => s + (one - mean) ** 2, 0) / grey.length)]);
    }
    return found;
})()"""
PLACES = """[...document.querySelectorAll(SELECTOR)].map(one => one.getBoundingClientRect()).map(
    one => [one.left, one.top + scrollY, one.right, one.bottom + scrollY])"""


class Chromium:
    """A headless Chromium, to be used in a ``with`` statement.

    Attributes:
        events: What it has sent by itself: dicts of ``method`` and ``params``.
    """

    def __enter__(self) -> 'Chromium':
        self._folder = TemporaryDirectory(ignore_cleanup_errors=True)
        (reads, self._to), (self._from, writes) = os.pipe(), os.pipe()
        # the protocol wants the descriptors 3 and 4; dash knows no number above 9
        command = ['bash', '-c', f'exec chromium "$@" 3<&{reads} 4>&{writes}', 'chromium', *OPTIONS]
        command += ['--remote-debugging-pipe', f'--user-data-dir={self._folder.name}', 'about:blank']
        quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
        self._process = subprocess.Popen(command, pass_fds=(reads, writes), **quiet)
        os.close(reads)
        os.close(writes)
        os.set_blocking(self._from, False)
        self._number, self._seen, self.events, self._session = 0, b'', [], {}
        target = next(one for one in self.call('Target.getTargets')['targetInfos'] if one['type'] == 'page')
        answer = self.call('Target.attachToTarget', targetId=target['targetId'], flatten=True)
        self._session = {'sessionId': answer['sessionId']}
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=SECONDS)
        os.close(self._to)
        os.close(self._from)
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {'id': self._number, 'method': method, 'params': params, **self._session}
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._number:
                assert 'error' not in answer, answer
                return answer['result']

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b'\0' not in self._seen:
            assert time.monotonic() < end and self._process.poll() is None, 'Chromium does not answer'
            try:
                self._seen += os.read(self._from, 2**20)
            except BlockingIOError:
                time.sleep(0.005)
        message, _, self._seen = self._seen.partition(b'\0')
        message = json.loads(message)
        if 'method' in message:
            self.events.append(message)
        return message

    def evaluate(self, script: str) -> Any:
        """Return the value of a script in the page."""
        answer = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def open(self, page: Path) -> None:
        """Load a page from disk, and wait until it is complete."""
        self.events.clear()
        self.call('Emulation.setDeviceMetricsOverride', width=WIDTH, height=900, deviceScaleFactor=1, mobile=False)
        self.call('Page.navigate', url=page.as_uri())
        while all(one['method'] != 'Page.loadEventFired' for one in self.events):
            self._receive()

    def complaints(self) -> list[dict]:
        """Return what the page has written to the console, and its errors."""
        return [one['params'] for one in self.events if one['method'] in COMPLAINTS]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for; data inside of the page is none."""
        sent = [one['params']['request']['url'] for one in self.events if one['method'] == 'Network.requestWillBeSent']
        return [address for address in sent if not address.startswith('data:')]

    def images(self) -> np.ndarray:
        """Open what is folded, and return the natural width and the spread of the grey values of each image."""
        return np.reshape(self.evaluate(IMAGES), (-1, 2))

    def screenshot(self) -> np.ndarray:
        """Return the whole page as BGR."""
        size = self.call('Page.getLayoutMetrics')['cssContentSize']
        strips = []
        for top in range(0, int(size['height']), STRIP):
            height = min(STRIP, int(size['height']) - top)
            clip = {'x': 0, 'y': top, 'width': WIDTH, 'height': height, 'scale': 1}
            answer = self.call('Page.captureScreenshot', clip=clip, captureBeyondViewport=True, optimizeForSpeed=True)
            strips.append(cv2.imdecode(np.frombuffer(base64.b64decode(answer['data']), np.uint8), cv2.IMREAD_COLOR))
        return np.concatenate(strips)

    def spreads(self, selector: str, shot: np.ndarray) -> list[float]:
        """Return the standard deviation of the pixels of each element on a screenshot."""
        places = np.round(self.evaluate(PLACES.replace('SELECTOR', json.dumps(selector)))).astype(int)
        return [float(shot[top:bottom, left:right].std()) for left, top, right, bottom in places]


def assert_shown_offline(chromium: Chromium, page: Path) -> None:
    """Open a report or a comparison: each image is there and not blank, nothing is requested, nothing complains."""
    chromium.open(page)
    images = chromium.images()
    assert len(images) and (images[:, 0] > 0).all() and (images[:, 1] > 0.1).all(), images
    assert chromium.requests() == [page.as_uri()] and chromium.complaints() == []
