"""Where the files of each benchmark are published, how large they are, and where they must lie: for `sif data`.

`PUBLISHED` of a benchmark's module has the addresses for its messages; the two agree (tests/upkeep/test_publications.py). This
table decides no result, so a correction gives no new key. A benchmark without an entry is listed with its addresses alone.
"""

from sifthinker.core.publications import GB, MB, Part, Publication, Way

_COCO_VAL = Part(
    "pictures: COCO val2014",
    "https://cocodataset.org",
    "web",
    6 * GB,
    ("val2014.zip",),
    "images",
    steps=("curl -fLO http://images.cocodataset.org/zips/val2014.zip && unzip -j val2014.zip -d {images}",),
)
_COCO_TRAIN = Part(
    "pictures: COCO train2014",
    "https://cocodataset.org",
    "web",
    13 * GB,
    ("train2014.zip",),
    "images",
    steps=(
        "curl -fLO http://images.cocodataset.org/zips/train2014.zip && unzip -j train2014.zip -d {images}",
    ),
)
_COCO_TEST = Part(
    "pictures: COCO test2015",
    "https://cocodataset.org",
    "web",
    12 * GB,
    ("test2015.zip",),
    "images",
    steps=("curl -fLO http://images.cocodataset.org/zips/test2015.zip && unzip -j test2015.zip -d {images}",),
    splits=("test-dev2015",),
)
_COT_IMAGES = Part(
    "pictures of Visual-CoT: one tar in 13 pieces, whose names have no extension",
    "deepcs233/Visual-CoT",
    "dataset",
    138.8 * GB,
    ("cot_images_tar_split/*",),
    "beside images",
    "cot_images_tar_split/",
    steps=("mkdir -p {images} && cat {fetched}/cot_images_* | tar x --strip-components=1 -C {images}",),
)

PUBLICATIONS: dict[str, Publication] = {
    "vstar": Publication(
        "not stated",
        (
            Way(
                "hub",
                (
                    Part(
                        "questions and pictures",
                        "craigwu/vstar_bench",
                        "dataset",
                        0.28 * GB,
                        ("test_questions.jsonl", "direct_attributes/*", "relative_position/*"),
                    ),
                ),
                "labels came with revision d9ae62c: take that or a later one",
            ),
        ),
    ),
    "refcoco": Publication(
        "Apache-2.0 (annotations); COCO's pictures under Flickr's terms, not verified",
        (
            Way(
                "rec",
                (
                    Part(
                        "expressions and boxes, eight files",
                        "https://github.com/deepcs233/Visual-CoT",
                        "web",
                        14.9 * MB,
                        ("llava/eval/REC/REC_*.jsonl",),
                        steps=(
                            "git clone --depth 1 https://github.com/deepcs233/Visual-CoT && mkdir -p {folder} && cp "
                            "Visual-CoT/llava/eval/REC/REC_*.jsonl {folder}",
                        ),
                    ),
                    _COCO_TRAIN,
                ),
            ),
            Way(
                "parquet",
                tuple(
                    Part(
                        name,
                        f"lmms-lab-encoder/{name}",
                        "dataset",
                        None,
                        ("data/*.parquet",),
                        "own folder",
                    )
                    for name in ("RefCOCO", "RefCOCOplus", "RefCOCOg")
                ),
                "its val sets hold other objects than the paper's splits; path: the folder that holds the three",
            ),
        ),
    ),
    "spatialbench": Publication(
        "CC-BY-4.0",
        (
            Way(
                "hub",
                (
                    Part(
                        "questions and pictures; the sensor depth beside them is not used",
                        "RussRobin/SpatialBench",
                        "dataset",
                        0.27 * GB,
                        ("*.json", "positional/*", "existence/*", "counting/*", "size/*", "reach/*"),
                        gated=True,
                    ),
                ),
            ),
        ),
    ),
    "cvbench": Publication(
        "Apache-2.0",
        (
            Way(
                "parquet",
                (
                    Part(
                        "questions and pictures",
                        "nyu-visionx/CV-Bench",
                        "dataset",
                        405 * MB,
                        ("test_2d.parquet", "test_3d.parquet"),
                    ),
                ),
            ),
        ),
    ),
    "sat": Publication(
        "MIT",
        (
            Way(
                "parquet",
                (
                    Part(
                        "questions and pictures, split static",
                        "array/SAT",
                        "dataset",
                        2.63 * GB,
                        ("SAT_static.parquet",),
                    ),
                ),
                "static is the authors' training split: evaluate.benchmarks' `choices` shuffles its answers",
            ),
        ),
    ),
    "pope": Publication(
        "MIT, not verified",
        (
            Way(
                "json",
                (
                    Part(
                        "questions, three files",
                        "https://github.com/AoiDragon/POPE",
                        "web",
                        None,
                        ("output/coco/coco_pope_*.json",),
                        steps=(
                            "git clone --depth 1 https://github.com/AoiDragon/POPE && mkdir -p {folder} && cp "
                            "POPE/output/coco/coco_pope_*.json {folder}",
                        ),
                    ),
                    _COCO_VAL,
                ),
            ),
            Way(
                "parquet",
                (
                    Part(
                        "questions and pictures, three categories",
                        "lmms-lab-encoder/POPE",
                        "dataset",
                        255 * MB,
                        ("data/*.parquet",),
                    ),
                ),
            ),
        ),
    ),
    "mme": Publication(
        "not stated",
        (
            Way(
                "parquet",
                (
                    Part(
                        "questions and pictures",
                        "lmms-lab-encoder/MME",
                        "dataset",
                        864 * MB,
                        ("data/test-*.parquet",),
                    ),
                ),
                "old revisions hold each file twice: the head does not",
            ),
            Way(
                "release",
                (
                    Part(
                        "MME_Benchmark_release_version, fourteen folders",
                        "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
                        "web",
                        steps=(
                            "ask for it as that page says, and unpack it so that {folder} holds its folders",
                        ),
                    ),
                ),
            ),
        ),
    ),
    "seed": Publication(
        "CC-BY-NC-4.0, not verified",
        (
            Way(
                "json",
                (
                    Part(
                        "questions, and the archive of the pictures (its size is not known here)",
                        "AILab-CVC/SEED-Bench",
                        "dataset",
                        None,
                        ("SEED-Bench.json", "SEED-Bench-image.zip"),
                        steps=("mkdir -p {images} && unzip -j {fetched}/SEED-Bench-image.zip -d {images}",),
                    ),
                ),
            ),
            Way(
                "parquet",
                (
                    Part(
                        "questions, pictures, and frames of videos that are not asked",
                        "lmms-lab-encoder/SEED-Bench",
                        "dataset",
                        21.7 * GB,
                        ("data/test-*.parquet",),
                    ),
                ),
                "its size is that of a copy of the same split",
            ),
        ),
    ),
    "mmbench": Publication(
        "Apache-2.0 (repository); data not verified",
        (
            Way(
                "tsv",
                (
                    Part(
                        "questions and pictures; a file for each split and language",
                        "https://github.com/open-compass/MMBench",
                        "web",
                        None,
                        ("MMBench_{DEV,TEST}_{EN,CN}.tsv", "MMBench_{DEV,TEST}_{EN,CN}_legacy.tsv"),
                        "path",
                        steps=(
                            "fetch the file from the table of that page and save it as {path}; the release used the "
                            "legacy form, which public instructions take from http://opencompass.openxlab.space/utils/MMBench/",
                            "the answers of TEST are hidden: a run writes a file for its server",
                        ),
                    ),
                ),
            ),
            Way(
                "parquet",
                (
                    Part(
                        "questions and pictures, English and Chinese, dev and test",
                        "lmms-lab-encoder/MMBench",
                        "dataset",
                        475 * MB,
                        ("en/*.parquet", "cn/*.parquet"),
                        "own folder",
                    ),
                ),
                "path: the folder `en` or `cn` in it",
            ),
        ),
    ),
    "vqav2": Publication(
        "CC-BY-4.0",
        (
            Way(
                "json",
                (
                    Part(
                        "questions of all splits, and the answers of val2014",
                        "https://visualqa.org/download.html",
                        "web",
                        None,
                        ("v2_OpenEnded_mscoco_*_questions.json", "v2_mscoco_val2014_annotations.json"),
                        steps=(
                            "fetch the zips of questions (val2014, test-dev2015, test2015) and annotations (val2014), "
                            "and unzip them in {folder}",
                        ),
                    ),
                    Part(
                        _COCO_VAL.what,
                        _COCO_VAL.where,
                        "web",
                        _COCO_VAL.size,
                        _COCO_VAL.files,
                        "images",
                        steps=_COCO_VAL.steps,
                        splits=("", "val2014"),
                    ),
                    _COCO_TEST,
                ),
            ),
            Way(
                "parquet",
                (
                    Part(
                        "questions, answers and pictures of validation; tens of GB",
                        "lmms-lab-encoder/VQAv2",
                        "dataset",
                        None,
                        ("data/validation-*-of-00068*",),
                        splits=("", "val2014"),
                    ),
                    Part(
                        "questions and pictures of testdev and, for the file that EvalAI takes, of test; tens of GB",
                        "lmms-lab-encoder/VQAv2",
                        "dataset",
                        None,
                        ("data/testdev-*-of-00036*", "data/test-*-of-00143*"),
                        splits=("test-dev2015",),
                    ),
                ),
            ),
        ),
    ),
    "ovdeval": Publication(
        "openrail",
        (
            Way(
                "hub",
                (
                    Part(
                        "eight sub-tasks: their JSON files, and an archive of pictures each",
                        "omlab/OVDEval",
                        "dataset",
                        2.28 * GB,
                        ("*.json", "*.tar.gz"),
                        steps=(
                            "mkdir -p {images} && for archive in {fetched}/*.tar.gz; do tar xzf $archive -C {images}; done",
                            "see that {images} then holds a folder of each sub-task's name, or all pictures itself",
                        ),
                    ),
                ),
                "the ninth sub-task, coco, has no file there",
            ),
        ),
    ),
    "viscot": Publication(
        "Apache-2.0 (annotations); the pictures' are their sources'",
        (
            Way(
                "github",
                (
                    Part(
                        "questions, five files",
                        "https://github.com/deepcs233/Visual-CoT",
                        "web",
                        10.2 * MB,
                        ("viscot_benchmark/benchmark/*.json",),
                        steps=(
                            "git clone --depth 1 https://github.com/deepcs233/Visual-CoT && mkdir -p {folder} && cp "
                            "Visual-CoT/viscot_benchmark/benchmark/*.json {folder}",
                        ),
                    ),
                    _COT_IMAGES,
                ),
            ),
        ),
    ),
}
