"""What a worker does for a shard: read, decode, crop, degrade and encode its samples, one image at a time."""

import errno
import hashlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from degradations import Pair, build, paired
from infra import storage
from infra.errors import JobError
from pipelines.decode import Rejected, decode_rgb
from pipelines.plan import PairPlan
from pipelines.shard import Reject, encode_json, encode_png, sample_key
from pipelines.source import SourceImage

_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_NO_IMAGE = (errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM)
"""Errors of one name, which the next one need not have; all others end the job."""


@dataclass(frozen=True)
class Photo:
    """A decoded image of the source, and the LQ image that belongs to it where pairs exist already. uint8 (H, W, 3)."""

    hq: np.ndarray
    lq: np.ndarray | None = None


def pair_samples(
    plan: PairPlan, shard: int, images: list[SourceImage], rejects: list[Reject]
) -> Iterator[dict[str, Any]]:
    """The samples of a shard in plan order, as `make_shard` takes them.

    `images`: those of the shard, each once, in plan order. What cannot be used is appended to `rejects`, once per
    sample that is missing for it, and never replaced.
    """
    maker = PairMaker(plan)
    samples, variants = plan.samples_of(shard), plan.shards.variants
    place, photo = -1, Photo(np.empty(0))
    reject: Reject | None = None
    for index in samples:
        if index // variants - samples[0] // variants != place:
            place = index // variants - samples[0] // variants
            photo, reject = Photo(np.empty(0)), None  # one decoded image at a time
            try:
                photo = load_photo(images[place], plan.shards.hq_size, plan.scale)
            except Rejected as rejected:
                reject = Reject(images[place].name, rejected.reason, rejected.detail)
        if reject is not None:
            rejects.append(reject)
        else:
            yield maker.sample(photo, images[place], index)


def load_photo(image: SourceImage, hq_size: int, scale: int) -> Photo:
    """Read and decode an image, and its LQ. Raises Rejected if it cannot be used."""
    if image.fault is not None:
        raise Rejected(image.fault.reason, image.fault.detail)
    hq = decode_rgb(_read(image))
    height, width = hq.shape[:2]
    if min(height, width) < hq_size:
        raise Rejected("too_small", f"{width}x{height}, crops are {hq_size}x{hq_size}")
    if image.lq is None:
        return Photo(hq)
    try:
        lq = decode_rgb(_read(image.lq))
    except Rejected as rejected:
        raise Rejected(rejected.reason, f"LQ {image.lq.name}: {rejected.detail}") from rejected
    try:
        paired.check_sizes((height, width), lq.shape[:2], scale, image.lq.name)
    except ValueError as error:
        raise Rejected("wrong_size", str(error)) from error
    return Photo(hq, lq)


def crop_generator(seed: int, name: str, variant: int) -> np.random.Generator:
    """Randomness of one sample's crop: depends on the dataset's seed, the image's name and the variant alone."""
    hashed = hashlib.blake2b(f"crop\0{seed}\0{name}\0{variant}".encode(), digest_size=16)
    return np.random.Generator(np.random.SFC64(int.from_bytes(hashed.digest(), "big")))


class PairMaker:
    """Makes single samples of a plan out of decoded images."""

    def __init__(self, plan: PairPlan) -> None:
        self.plan = plan
        self.degrade = None if plan.degradation["name"] == "paired" else build(plan.degradation, scale=plan.scale)

    def sample(self, photo: Photo, image: SourceImage, index: int) -> dict[str, Any]:
        """Sample `index` of the dataset: {"__key__": key, "hq.png": bytes, ...}, as it stands in its shard."""
        shards = self.plan.shards
        variant, size = index % shards.variants, shards.hq_size
        rng = crop_generator(shards.seed, image.name, variant)
        step = 1 if self.degrade else self.plan.scale  # an LQ that exists can be cut at its own pixels only
        top, left = (int(rng.integers(0, (side - size) // step + 1)) * step for side in photo.hq.shape[:2])
        mirrored = bool(rng.random() < shards.horizontal_flip_prob)
        if self.degrade:
            hq = photo.hq[top : top + size, left : left + size]
            hq = np.ascontiguousarray(hq[:, ::-1] if mirrored else hq)
            pair = self.degrade(hq, shards.seed, key=image.name, variant=variant)
        else:
            pair = paired.crop(self._whole(photo, image, variant), left, top, size, mirrored=mirrored)
        record = {
            "source": image.name,
            "variant": variant,
            "crop": {"top": top, "left": left, "size": size},
            "horizontal_flip": mirrored,
            "degradation": pair.record,
        }
        fields = {"hq.png": encode_png(pair.hq), "lq.png": encode_png(pair.lq), "json": encode_json(record)}
        if pair.mask is not None:
            fields["mask.png"] = encode_png(pair.mask * 255)  # 1 = missing; stored white, so that a person sees it
        return {"__key__": sample_key(*divmod(index, shards.samples_per_shard)), **fields}

    def _whole(self, photo: Photo, image: SourceImage, variant: int) -> Pair:
        assert photo.lq is not None, "pairs that exist already are matched in the plan"
        assert image.lq is not None, "and so is its name"
        seed = self.plan.shards.seed
        return paired.pair_of(
            photo.hq, photo.lq, self.plan.scale, lq_name=image.lq.name, seed=seed, key=image.name, variant=variant
        )


def _read(image: SourceImage) -> bytes:
    data = _stored(image)
    if image.size is not None and len(data) != image.size:
        raise JobError(
            f"source '{image.url}': changed since it was listed, from {image.size} bytes to {len(data)}; put back what "
            "was there and run the same command again, or choose another --out for the new images"
        )
    return data


def _stored(image: SourceImage) -> bytes:
    try:
        return storage.read_range(image.url, *image.span) if image.span else storage.read_bytes(image.url)
    except OSError as error:
        if image.root and not storage.is_s3(image.root) and not storage.exists(image.root):
            raise JobError(
                f"source '{image.root}': is not there on {socket.gethostname()}, where a worker is; mount it on every "
                "node and run the same command again"
            ) from error
        if error.errno not in _NO_FILE + _NO_IMAGE:
            raise JobError(  # the image may be good
                f"{image.url}: cannot be read ({error.strerror}); mend the disk or mount and run the same command again"
            ) from error
        raise Rejected("missing" if error.errno in _NO_FILE else "unreadable", str(error)) from error
