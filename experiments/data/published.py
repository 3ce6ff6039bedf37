"""Where publishers have their data, and the sha256 of the files that are known."""

# data set -> where to get it
URLS: dict[str, str] = {
    "mnist": "http://yann.lecun.com/exdb/mnist",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html (binary version)",
    "omniglot": "https://github.com/brendenlake/omniglot (images, made 28x28)",
    "news20": "http://qwone.com/~jason/20Newsgroups (counted as by scikit-learn)",
    "a9a": "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary.html",
    "spoken_digits": "https://github.com/Jakobovski/free-spoken-digit-dataset",
    "co2": "https://www.statsmodels.org/stable/datasets (co2)",
    "sunspots": "https://www.statsmodels.org/stable/datasets (sunspots)",
    "airline": "https://github.com/jbrownlee/Datasets",
    "etth1": "https://github.com/zhouhaoyi/ETDataset",
    "tiny_shakespeare": "https://github.com/karpathy/char-rnn",
    "wikitext2": "https://huggingface.co/datasets/Salesforce/wikitext",
}

# file below HYPERGRAD_DATA -> its known editions; a file that was packed twice has two
SHA256: dict[str, tuple[str, ...]] = {
    "a9a/a9a": ("7ba53cccb27e2e525f0fb173e1f446d49856e3fb007eb43be4ec6d0f5b3335ca",),
    "a9a/a9a.t": ("1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9",),
    "cifar10/cifar-10-binary-subset.tar.gz": (
        "a36703b829ee4af96599cde6cf816269153766ac22556879e1a8b15a07fa2b25",
    ),
    "cifar10/cifar-10-binary.tar.gz": (
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ),
    "fashion-mnist/t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "78cb45a589ec14266eab4ac0cb2e9e10a4c076ae2d337fe86383d761bff83f32",
    ),
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        "ae04cd950ab214637dd08f56319057c2ae10cbb660f742681f426479e3d51363",
    ),
    "fashion-mnist/train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a26751d72d89606ffbfdd4dd5d16911f01e93a7ff4783c95da7307a073d79fa7",
    ),
    "fashion-mnist/train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "a578f3c9ec239359c0d23abadc5d55e4a4fb20df357215637b7a2f127b006a74",
    ),
    "mnist/t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "5634745efa576a17e7d4cf5cd9d09123c75e6538e5114267c2d156edaf519341",
    ),
    "mnist/t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ae18e77e031ccde52407f794d123116439864147d33ac992975f85dd4dc42af6",
    ),
    "mnist/train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "71524e2cd1ad2968737f7f2f2ff69cbfc32df8ccddff51593f7cb2d4e0eb5b64",
    ),
    "mnist/train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "fe03b8bd7915f70bf5aa08be480aa413fbd85afcaa58b35d230d335f284fd88e",
    ),
    "news20/news20_counts_test.npz": (
        "152378a319864d6725a4f0465b13299dc2d7243b7c60b2916d0554f382d17bd2",
    ),
    "news20/news20_counts_train.npz": (
        "9f5af344575ea90fda4ebbbcc4e30a5184ab75e7af801935cd08e0f91a774ee5",
    ),
    "omniglot/omniglot_28x28_u8.npz": (
        "99c3ba3b15980b1baf5134c8ae73036fb969fa150826cf932d4b2c23f6ccb3ce",
    ),
    "spoken-digits/recordings.tar.gz": (
        "6c65bc5bacd69b6aafe7e9584edaa8e7cf5e60146d8ececfa7535bb7c28a9ebe",
    ),
    "timeseries/ETTh1.csv": (
        "f18de3ad269cef59bb07b5438d79bb3042d3be49bdeecf01c1cd6d29695ee066",
    ),
    "timeseries/airline-passengers.csv": (
        "8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621",
    ),
    "timeseries/co2_weekly_statsmodels.csv": (
        "16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f",
    ),
    "timeseries/sunspots_yearly_statsmodels.csv": (
        "f67889b1d9002cd5227f0e0ef54e35b419cdd85a31279adef6f73fb41e5c0a9b",
    ),
    "tinyshakespeare/input.txt": (
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "wikitext2/test.txt": (
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    ),
    "wikitext2/valid.txt": (
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    ),
}
