"""The owner's offline way to write a teacher's answers on a test split; nothing on the network does this."""

from collections.abc import Collection

from shared.datasets import Split, load_dataset
from shared.wire.images import batch_digest, image_digests
from shared.wire.teacher_answers import TeacherAnswers
from teacher_server.teachers.bundle import Bundle
from teacher_server.teachers.classifier import load_classifier


def predict_split(
    bundle: Bundle, dataset_name: str, split: Split, device: str = "cpu", *, trusted_networks: Collection[str] = ()
) -> TeacherAnswers:
    """The teacher's answers on every image of a split, in order; write them with ``write_teacher_answers``.

    Images of another size are resized by the teacher's own rule.

    Raises ValueError for an unknown data set, split or device and for images that are not the teacher's input,
    DatasetUnavailable, BundleError.
    """
    spec = bundle.manifest.input
    size = (spec.height, spec.width, spec.channels)
    # A rule of "exact" is the teacher's word that images of another size are not its input: none is resized then.
    dataset = load_dataset(dataset_name, split, size=None if spec.resize == "exact" else size, resize=spec.resize)
    if dataset.images_nhwc.shape[1:] != size:
        found = " x ".join(str(side) for side in dataset.images_nhwc.shape[1:])
        wanted = f"{spec.height} x {spec.width} x {spec.channels}"
        raise ValueError(
            f"data set {dataset_name} has images of {found}; teacher {bundle.manifest.name} takes {wanted}"
        )
    return TeacherAnswers(
        teacher=bundle.manifest.name,
        version=bundle.manifest.version,
        dataset=dataset.name,
        split=split,
        images_digest=batch_digest(image_digests(dataset.images_nhwc)),
        probabilities_nk=load_classifier(bundle, device, trusted_networks=trusted_networks).probabilities(
            dataset.images_nhwc
        ),
    )
