"""The source of both notebooks: `python -m tools.notebooks` writes them.

The cells of text are in English (en) and in Korean (ko).
"""

# %% en
# # Cats and dogs
#
# This notebook trains image classifiers in the order of the article from which this project grew: CSV, image files,
# augmentation, a pretrained network, TFRecords. It takes one to two minutes on two CPU cores.
#
# On Colab and Kaggle, replace `ADDRESS` with the https address of the repository. Restart the session after the
# installation, because TensorFlow is replaced.

# %% ko
# # 고양이와 개 분류
#
# 이 노트북은 프로젝트의 출발점이 된 글의 순서대로 이미지 분류기를 학습합니다: CSV, 이미지 파일, 데이터 증강,
# 전이 학습, TFRecord. CPU 코어 두 개로 1~2분 걸립니다.
#
# Colab과 Kaggle에서는 `ADDRESS`를 저장소의 https 주소로 바꾸세요. TensorFlow 버전이 바뀌므로, 설치가 끝나면
# 세션을 다시 시작하세요.

# %%
import importlib.util
import os

from IPython import get_ipython

if importlib.util.find_spec("tfrecord_tools") is None:
    get_ipython().run_line_magic("pip", 'install --quiet "tfrecord-tools @ git+ADDRESS"')

# %%
import matplotlib.pyplot as plt

import tfrecord_tools
import trainers

tfrecord_tools.quiet_tensorflow()  # TensorFlow does not print its remarks about the machine.

# %% en
# The notebook draws its own images. To use your photographs, put them into folders like `cat_dog_img/train/cats/` and
# `cat_dog_img/validation/dogs/`.

# %% ko
# 이 노트북은 연습용 이미지를 직접 그립니다. 준비한 사진을 쓰려면 `cat_dog_img/train/cats/`,
# `cat_dog_img/validation/dogs/` 같은 폴더에 넣으세요.

# %%
from pathlib import Path

from tfrecord_tools.sample import draw_sample

if not os.path.exists("cat_dog_img"):
    draw_sample("cat_dog_img", images=300)


def show_images(images, names, title):
    figure, axes = plt.subplots(1, len(images), figsize=(10, 2), layout="constrained")
    for panel, image, name in zip(axes, images, names):
        panel.imshow(image)
        panel.set_title(name, fontsize="medium")
        panel.axis("off")
        panel.set_anchor("N")
    figure.suptitle(title)


cats, dogs = (sorted(Path("cat_dog_img/validation", name).iterdir())[:4] for name in ("cats", "dogs"))
show_images([plt.imread(path) for path in cats + dogs], ["cats"] * 4 + ["dogs"] * 4, "Validation images")

# %% en
# ## 1. CSV
#
# A CSV of pixels has one image per row: the class, then the values of all pixels, from 0 to 255.

# %% ko
# ## 1. CSV 파일 사용
#
# 픽셀 CSV는 한 행에 이미지 한 장을 저장합니다. 첫 열은 클래스이고, 나머지 열은 0~255의 픽셀 값입니다.

# %%
from tfrecord_tools.to_csv import CsvConfig, to_csv

if not os.path.exists("csv"):
    to_csv(CsvConfig(src="cat_dog_img", image_size=48))

# %% en
# `scratch` trains a CNN from random weights. Training and validation must have different images: the validation shows
# how well the network classifies images that it has not seen.

# %% ko
# `scratch`는 무작위 가중치로 시작해 CNN을 학습합니다. 검증(validation)에는 학습에 쓰지 않은 이미지를 사용하므로,
# 처음 보는 이미지를 얼마나 잘 분류하는지 알 수 있습니다.

# %%
by_csv = trainers.scratch(csv="csv", epochs=10, run="runs/csv")

# %% en
# `history` has the values of each epoch.

# %% ko
# `history`에는 epoch별 값이 들어 있습니다.


# %%
def show_history(history, title):
    _, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for name, label in (("accuracy", "training"), ("val_accuracy", "validation")):
        axes.plot(range(1, len(history[name]) + 1), history[name], marker="o", label=label)
    axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.05))
    axes.set_title(f"{title}: validation accuracy {history['val_accuracy'][-1]:.1%}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="lower right")


show_history(by_csv.history, "CSV")

# %% en
# ## 2. Image files
#
# `convert` checks every image and writes TFRecords. Together with the trainers, it replaces
# `ImageDataGenerator.flow_from_directory`. A cell that ends with a dataset shows its report card.

# %% ko
# ## 2. 이미지 파일 사용
#
# `convert`는 모든 이미지를 검사하고 TFRecord로 저장합니다. 트레이너와 함께
# `ImageDataGenerator.flow_from_directory`를 대신합니다. 셀의 마지막 줄에 데이터셋을 쓰면 데이터셋 카드가 나타납니다.

# %%
data = tfrecord_tools.convert(src="cat_dog_img", out="out")
data

# %%
plain = trainers.scratch(tfrecords="out", image_size=48, epochs=10, augment="none", run="runs/plain")
show_history(plain.history, "Image files")

# %% en
# ## 3. Data augmentation
#
# With few images, a network memorizes them instead of learning what cats and dogs look like (overfitting). With
# augmentation, each epoch shows a new variant of every image: turned, shifted, zoomed, mirrored.

# %% ko
# ## 3. 데이터 증강(Data Augmentation)
#
# 데이터가 부족하면 과적합(overfitting)이 발생합니다. 데이터 증강을 사용하면 epoch마다 모든 이미지를 새롭게
# 회전, 이동, 확대, 반전하여 학습하므로 과적합을 줄일 수 있습니다.

# %%
from tfrecord_tools import dataset

records = data.records("train")
same = records.select([0] * 8)  # The first image, eight times.
variants = dataset.train_batches(same, batch_size=8, image_size=96, seed=0, augment="reference")
images, labels = next(iter(variants))
show_images(images.numpy(), range(1, 9), "Variants of one image")

# %%
augmented = trainers.scratch(tfrecords="out", image_size=48, epochs=10, run="runs/augmented")
show_history(augmented.history, "Augmentation")

# %% en
# ## 4. A pretrained network
#
# A network that was trained on ImageNet already knows shapes and textures. The weights are downloaded.
# Without a connection, `WEIGHTS` may be the path of a file, or "none" for random weights.
#
# ### 4.1 Features, then a classifier
#
# The network reads every image once, and a small classifier is trained on its outputs. This is the fastest way.

# %% ko
# ## 4. 전이 학습(Transfer Learning)
#
# ImageNet으로 사전 학습된 네트워크는 이미 여러 형태와 질감을 구별합니다. 가중치는 자동으로 내려받습니다.
# 인터넷에 연결되어 있지 않으면 `WEIGHTS`에 파일 경로를 넣으세요. "none"은 무작위 가중치입니다.
#
# ### 4.1 특징 추출 후 분류기 학습
#
# 네트워크가 모든 이미지를 한 번씩만 읽어 특징을 추출하고, 이 특징으로 작은 분류기를 학습합니다. 가장 빠른 방법입니다.

# %%
WEIGHTS = os.environ.get("WEIGHTS", "imagenet")
NETWORK = {"backbone": "MobileNet", "backbone_kwargs": {"alpha": 0.25}, "image_size": 96, "weights": WEIGHTS}

features = trainers.features(tfrecords="out", epochs=4, run="runs/features", **NETWORK)
show_history(features.history, "Features")

# %% en
# ### 4.2 (1) A frozen network, with augmentation
#
# The weights of the network do not change. It reads new variants of the images in every epoch, so this is slower.

# %% ko
# ### 4.2 (1) 동결한 네트워크와 데이터 증강
#
# 사전 학습된 네트워크의 가중치는 동결(freeze)하고 분류기만 학습합니다. epoch마다 새로 증강한 이미지가 네트워크를
# 통과하므로 4.1보다 느립니다.

# %%
frozen = trainers.frozen(tfrecords="out", epochs=8, run="runs/frozen", **NETWORK)
show_history(frozen.history, "Frozen network")

# %% en
# ### 4.2 (2) Fine-tuning
#
# The classifier is trained first. Then the last stage of the network is trained, too, with a small learning rate.

# %% ko
# ### 4.2 (2) 미세 조정(Fine-tuning)
#
# 먼저 분류기를 학습합니다. 그다음 작은 학습률(learning rate)로 네트워크의 마지막 부분까지 함께 학습합니다.

# %%
epochs = 5 if WEIGHTS == "none" else [3, 3]  # Without pretrained weights, there is one phase.
finetuned = trainers.finetune(tfrecords="out", epochs=epochs, run="runs/finetune", **NETWORK)
show_history(finetuned.history, "Fine-tuning")

# %% en
# A cell that ends with a training shows its report.

# %% ko
# 셀의 마지막 줄에 학습 결과를 쓰면 보고서가 나타납니다.

# %%
finetuned

# %% en
# `predict` classifies images. `names` are the predicted classes, and `probabilities` has one column per class.

# %% ko
# `predict`는 이미지를 분류합니다. `names`는 예측한 클래스이고, `probabilities`에는 클래스마다 열이 하나씩 있습니다.

# %%
answers = finetuned.predict(cats + dogs)
names = [f"{name} {row.max():.0%}" for name, row in zip(answers.names, answers.probabilities)]
show_images([plt.imread(path) for path in cats + dogs], names, "Predicted classes and probabilities")

# %% en
# ## 5. TFRecords
#
# Your own Keras model can read the TFRecords, too. Each epoch has another order. Pixels are uint8 from 0 to 255, so the
# model scales them.

# %% ko
# ## 5. TFRecord 사용
#
# 직접 만든 Keras 모델도 TFRecord를 읽을 수 있습니다. 이미지 순서는 epoch마다 바뀝니다. 픽셀은 0~255의 uint8이므로
# 모델 안에서 0~1로 정규화합니다.

# %%
import keras

train = dataset.train_batches(records, batch_size=20, image_size=48, seed=0)
validation = dataset.eval_batches(data.records("validation"), batch_size=20, image_size=48)
model = keras.Sequential(
    [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(128, 3, activation="relu"),
        keras.layers.MaxPooling2D(),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1, activation="sigmoid"),
    ]
)
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
# shuffle=False: the batches are shuffled already.
fitted = model.fit(train, epochs=20, validation_data=validation, shuffle=False, verbose=0)
show_history(fitted.history, "Own model")

# %% en
# ## The accuracy of all trainings
#
# Drawings are easy to tell apart. On photographs, pretrained networks are much better: `docs/results.md` has their
# accuracy.

# %% ko
# ## 모든 학습의 정확도
#
# 그린 이미지는 구별하기 쉽습니다. 실제 사진에서는 사전 학습된 네트워크의 정확도가 훨씬 높습니다. 측정한 값은
# `docs/results.md`에 있습니다.

# %%
accuracy = {
    "CSV": by_csv.metrics["accuracy"],
    "Image files": plain.metrics["accuracy"],
    "Augmentation": augmented.metrics["accuracy"],
    "Features": features.metrics["accuracy"],
    "Frozen network": frozen.metrics["accuracy"],
    "Fine-tuning": finetuned.metrics["accuracy"],
    "Own model": fitted.history["val_accuracy"][-1],
}
_, axes = plt.subplots(figsize=(6, 3), layout="constrained")
bars = axes.barh(list(accuracy), list(accuracy.values()))
axes.bar_label(bars, [f"{value:.1%}" for value in accuracy.values()], padding=3)
axes.set(xlabel="accuracy", xlim=(0, 1.15), title="Accuracy on the validation images")
axes.invert_yaxis()
