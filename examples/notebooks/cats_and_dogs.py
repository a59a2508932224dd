"""The source of both notebooks: `python -m tools.notebooks` writes them.

The cells of text are in English (en) and in Korean (ko).
"""

# %% en
# # Cats and dogs
#
# This notebook trains image classifiers in the order of the article from which this project grew: CSV, images,
# augmentation, a pretrained network, TFRecords. It draws its own images. To use your photographs, put them into
# folders like `train/cats/`, and skip the cell that draws.

# %% ko
# # 고양이와 개
#
# 이 노트북은 프로젝트의 출발점이 된 글의 순서대로 이미지 분류기를 학습합니다: CSV, 이미지 파일,
# 데이터 증강, 사전 학습된 네트워크, TFRecord. 이미지는 직접 그립니다. 자신의 사진을 쓰려면
# `train/cats/` 같은 폴더에 넣고, 그림을 그리는 셀은 건너뛰세요.

# %% en
# On Colab and Kaggle, replace `ADDRESS` with the https address of the repository. Restart the session afterwards,
# because TensorFlow is replaced.

# %% ko
# Colab과 Kaggle에서는 `ADDRESS`를 저장소의 https 주소로 바꾸세요.
# TensorFlow가 바뀌므로, 설치 후 세션을 다시 시작하세요.

# %%
import importlib.util
import os

from IPython import get_ipython

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Without this, TensorFlow prints many lines about the machine.
if importlib.util.find_spec("tfrecord_tools") is None:
    get_ipython().run_line_magic("pip", 'install --quiet "tfrecord-tools @ git+ADDRESS"')

# %%
import matplotlib.pyplot as plt

import tfrecord_tools
import trainers
from tfrecord_tools import augment_config, dataset

# "imagenet" is downloaded. Without a connection: the path of a file, or "none".
WEIGHTS = os.environ.get("WEIGHTS", "imagenet")
NETWORK = {"backbone": "MobileNet", "backbone_kwargs": {"alpha": 0.25}, "image_size": 96, "weights": WEIGHTS}

# %%
from tfrecord_tools.sample import draw_sample

if not os.path.exists("cat_dog_img"):
    draw_sample("cat_dog_img", images=300)

# %% en
# ## 1. Images as CSV
#
# A CSV of pixels has one image per row: the class, then the values of all pixels.

# %% ko
# ## 1. CSV 파일 사용
#
# 픽셀 CSV는 한 줄에 이미지 하나를 담습니다: 클래스, 그다음 모든 픽셀의 값.

# %%
from tfrecord_tools.to_csv import CsvConfig, to_csv

if not os.path.exists("csv"):
    to_csv(CsvConfig(src="cat_dog_img", image_size=48))

# %%
by_csv = trainers.scratch(csv="csv", epochs=10, run="runs/csv")

# %% en
# A training shows its results, and a curve per epoch is in `history`.

# %% ko
# 학습은 결과를 보여 주고, epoch마다의 값은 `history`에 있습니다.


# %%
def show(run):
    _, axes = plt.subplots(figsize=(6, 3))
    for name, label in (("accuracy", "training"), ("val_accuracy", "validation")):
        axes.plot(range(1, len(run.history[name]) + 1), run.history[name], label=label)
    axes.set(xlabel="epoch", ylabel="accuracy", title=f"{run.path.name}: {run.metrics['accuracy']:.1%}")
    axes.legend()


show(by_csv)

# %% en
# ## 2. Image files
#
# `convert` checks every image and writes TFRecords. Together with the trainers, it replaces `flow_from_directory`.

# %% ko
# ## 2. 이미지 파일 사용
#
# `convert`는 모든 이미지를 검사하고 TFRecord를 씁니다. 트레이너와 함께
# `flow_from_directory`를 대신합니다.

# %%
data = tfrecord_tools.convert(src="cat_dog_img", out="out")
data

# %%
plain = trainers.scratch(tfrecords="out", image_size=48, epochs=10, augment="none", run="runs/plain")
show(plain)

# %% en
# ## 3. Data augmentation
#
# Each epoch shows a new variant of every image: turned, shifted, zoomed, mirrored.

# %% ko
# ## 3. 데이터 증강
#
# 매 epoch마다 모든 이미지의 새로운 변형을 보여 줍니다: 회전, 이동, 확대, 좌우 반전.

# %%
records = data.records("train")
variants = dataset.train_batches(
    records.select([0] * 8), batch_size=8, image_size=96, seed=0, augment=augment_config.PRESETS["reference"]
)
images, labels = next(iter(variants))
_, axes = plt.subplots(1, 8, figsize=(12, 2))
for panel, image in zip(axes, images.numpy()):
    panel.imshow(image)
    panel.axis("off")

# %%
augmented = trainers.scratch(tfrecords="out", image_size=48, epochs=10, run="runs/augmented")
show(augmented)

# %% en
# ## 4. A pretrained network
#
# ### 4.1 Features, then a classifier
#
# The network reads every image once. A small classifier is trained on its outputs.

# %% ko
# ## 4. 사전 학습된 네트워크
#
# ### 4.1 특징 추출 후 분류기
#
# 네트워크가 각 이미지를 한 번 읽고, 그 출력으로 작은 분류기를 학습합니다.

# %%
features = trainers.features(tfrecords="out", run="runs/features", **NETWORK)
show(features)

# %% en
# ### 4.2 (1) A frozen network, with augmentation
#
# The network does not change, and reads new variants in every epoch.

# %% ko
# ### 4.2 (1) 고정된 네트워크와 데이터 증강
#
# 네트워크는 변하지 않고, 매 epoch마다 새로운 변형을 읽습니다.

# %%
frozen = trainers.frozen(tfrecords="out", epochs=3, run="runs/frozen", **NETWORK)
show(frozen)

# %% en
# ### 4.2 (2) Fine-tuning
#
# The classifier is trained first, then the last stage of the network, too.

# %% ko
# ### 4.2 (2) 미세 조정
#
# 먼저 분류기를, 그다음 네트워크의 마지막 단계도 학습합니다.

# %%
epochs = 5 if WEIGHTS == "none" else [2, 3]  # Without pretrained weights, there is one phase.
finetuned = trainers.finetune(tfrecords="out", epochs=epochs, run="runs/finetune", **NETWORK)
finetuned

# %% en
# Use the model. `names` are the predicted classes, and `probabilities` has a column per class.

# %% ko
# 모델을 사용합니다. `names`는 예측한 클래스이고, `probabilities`는 클래스마다 열이
# 하나입니다.

# %%
answers = finetuned.predict(["cat_dog_img/validation/cats/cat.105.jpg", "cat_dog_img/validation/dogs/dog.105.jpg"])
answers.names, answers.probabilities.round(3)

# %% en
# ## 5. TFRecords
#
# All trainings above read the same records. Your own model reads them, too. Pixels are uint8, so the model scales
# them.

# %% ko
# ## 5. TFRecord
#
# 위의 모든 학습은 같은 레코드를 읽었습니다. 자신의 모델도 읽을 수 있습니다. 픽셀은 uint8이므로
# 모델이 크기를 조정합니다.

# %%
import keras

train = dataset.train_batches(records, batch_size=16, image_size=48, seed=0)
validation = dataset.eval_batches(data.records("validation"), batch_size=16, image_size=48)
model = keras.Sequential(
    [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
fitted = model.fit(train, epochs=3, validation_data=validation)

# %% en
# What the trainings reached:

# %% ko
# 각 학습이 도달한 정확도:

# %%
for run in (by_csv, plain, augmented, features, frozen, finetuned):
    print(f"{run.path.name:<16} {run.metrics['accuracy']:.1%}")
