"""Where the annotation files of each format are published, how large they are, and where they must lie: for `sif data`.

This table decides no result, so a correction gives no new key. A format without an entry is one of your own files.
"""

from sifthinker.core.publications import GB, MB, Part, Publication, Way

PUBLICATIONS: dict[str, Publication] = {
    "viscot": Publication(
        "Apache-2.0 (annotations); the pictures' are their sources': Flickr30k and CUB for research only, not verified",
        (
            Way(
                "hub",
                (
                    Part(
                        "annotations",
                        "deepcs233/Visual-CoT",
                        "dataset",
                        345 * MB,
                        ("viscot_363k.json",),
                        "path",
                    ),
                    Part(
                        "pictures: one tar in 13 pieces, whose names have no extension",
                        "deepcs233/Visual-CoT",
                        "dataset",
                        138.8 * GB,
                        ("cot_images_tar_split/*",),
                        "beside images",
                        "cot_images_tar_split/",
                        steps=(
                            "mkdir -p {images} && cat {fetched}/cot_images_* | tar x --strip-components=1 -C {images}",
                        ),
                    ),
                ),
                "{images} then holds a folder for each data set: flickr30k, gqa, openimages, v7w, cub, vsr and others",
            ),
        ),
    ),
    "tallyqa": Publication(
        "not verified; TallyQA itself is Apache-2.0",
        (
            Way(
                "grit",
                (
                    Part(
                        "491 questions with boxes; some have fewer boxes than they count",
                        "yfan1997/GRIT_data",
                        "dataset",
                        None,
                        ("tallyqa_val.jsonl",),
                        "path",
                    ),
                    Part(
                        "their 465 pictures of Visual Genome",
                        "https://cs.stanford.edu/people/rak248",
                        "web",
                        50 * MB,
                        ("VG_100K/<id>.jpg", "VG_100K_2/<id>.jpg"),
                        "images",
                        steps=(
                            """python -c "import json; print(*{json.loads(line)['image'] for line in open('{path}')}, sep='\\n')" | """
                            "xargs -I@ curl -fL --create-dirs -o {images}/@ https://cs.stanford.edu/people/rak248/@",
                            "or unpack VG_100K_2/images.zip and VG_100K_2/images2.zip of that address, all of Visual Genome, in "
                            "{images}",
                        ),
                    ),
                ),
            ),
            Way(
                "relabelled",
                (
                    Part(
                        "the same questions with one box for each counted thing, and corrected answers",
                        "zsxm1998/GRIT-TallyQA-Relabeled",
                        "dataset",
                        None,
                        ("tallyqa_val.jsonl",),
                        "path",
                    ),
                    Part(
                        "their 465 pictures",
                        "zsxm1998/GRIT-TallyQA-Relabeled",
                        "dataset",
                        35 * MB,
                        ("images/*",),
                        "images",
                        "images/",
                    ),
                ),
            ),
        ),
        "TallyQA's own files have no boxes and cannot be used",
    ),
    "published": Publication(
        "not verified",
        (
            Way(
                "hub",
                (
                    Part(
                        "SIF-50K.json, SIF-50K-sampled-200.json and the folders of pictures",
                        "jankin123/SIF-50K",
                        "dataset",
                        None,
                        ("*",),
                        "images",
                    ),
                ),
            ),
        ),
        "it was linked until December 2025, and no page was found that lists its files; what it unpacks to is not known",
    ),
}
