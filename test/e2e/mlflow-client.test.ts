import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { startMinio } from '../servers/minio.ts';
import { mlflowPython, startMlflowServer } from '../servers/mlflow.ts';
import { requireServer } from '../servers/require.ts';
import { type Api, startApi } from './api.ts';

const SCRIPT_MS = 300_000;
const BIG_MIB = 300;

/** The whole life of artifacts through one repository of the official client; what it saw, as JSON. */
const REPOSITORY = `
import hashlib, json, os, sys, tempfile
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
root, kind, big_mib = sys.argv[1], sys.argv[2], int(sys.argv[3])
repo = get_artifact_repository(root)
assert type(repo).__name__ == kind, type(repo).__name__
NAMES = ["plain.txt", "two words.txt", "ünï 日本語.bin", "100%", "50% off.txt", "a+b&c=d;e.txt", "empty.bin", "MLmodel"]
tmp = tempfile.mkdtemp()
def make(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "wb").write(data)
    return path
def data_of(name): return b"" if name == "empty.bin" else name.encode() * 100
def walk(path=None):
    found = {}
    for f in repo.list_artifacts(path):
        if f.is_dir: found.update(walk(f.path))
        else: found[f.path] = f.file_size
    return found

# one by one, then a tree
for name in NAMES: repo.log_artifact(make(os.path.join(tmp, "one", name), data_of(name)), "single")
for name in NAMES: make(os.path.join(tmp, "tree", "deep er", "日", name), data_of(name))
repo.log_artifacts(os.path.join(tmp, "tree"), "tree")
sizes = {name: (len(data_of(name)) or None) for name in NAMES}
expected = {f"single/{n}": s for n, s in sizes.items()} | {f"tree/deep er/日/{n}": s for n, s in sizes.items()}
assert walk() == expected, walk()
assert repo.list_artifacts("single/plain.txt") == [] and repo.list_artifacts("nowhere") == []

# down again: a file, a tree, everything
for name in NAMES:
    assert open(repo.download_artifacts(f"single/{name}"), "rb").read() == data_of(name), name
for where, strip in [("tree", "tree/"), ("", "")]:
    dst = repo.download_artifacts(where)
    base = dst if where == "" else os.path.dirname(dst.rstrip("/"))
    for path in expected:
        if path.startswith(strip):
            assert open(os.path.join(base, path), "rb").read() == data_of(os.path.basename(path)), path
try:
    repo.download_artifacts("single/missing.txt")
    raise SystemExit("a missing artifact was downloaded")
except SystemExit: raise
except Exception as error: missing = str(error)
assert "404" in missing or "No such artifact" in missing, missing

# a big one, both ways
piece = os.urandom(1 << 20)
digest = hashlib.sha256()
big = os.path.join(tmp, "big file.bin")
with open(big, "wb") as f:
    for n in range(big_mib):
        part = n.to_bytes(4, "little") + piece[4:]
        digest.update(part); f.write(part)
repo.log_artifact(big, "big")
os.remove(big)
again = hashlib.sha256()
with open(repo.download_artifacts("big/big file.bin"), "rb") as f:
    while part := f.read(1 << 20): again.update(part)
assert again.hexdigest() == digest.hexdigest()
assert walk("big") == {"big/big file.bin": big_mib << 20}

# a file, a tree, what is not there, everything
repo.delete_artifacts("single/two words.txt")
assert "single/two words.txt" not in walk()
repo.delete_artifacts("tree")
assert not [p for p in walk() if p.startswith("tree")]
repo.delete_artifacts("nowhere")
repo.delete_artifacts("big")
left = sorted(walk())
repo.delete_artifacts()
assert walk() == {}
print(json.dumps(left))
`;
const LEFT = [
  '50% off.txt',
  '100%',
  'MLmodel',
  'a+b&c=d;e.txt',
  'empty.bin',
  'plain.txt',
  'ünï 日本語.bin',
].map((name) => `single/${name}`);

/** Every way the client can be pointed at the artifact service. */
function repositories(api: Api): readonly (readonly [uri: string, kind: string])[] {
  return [
    [`${api.artifacts}http run`, 'HttpArtifactRepository'],
    ['mlflow-artifacts:/0/proxied run', 'MlflowArtifactsRepository'],
  ];
}

async function wholeLife(api: Api, uri: string, kind: string): Promise<void> {
  const env = { MLFLOW_TRACKING_URI: api.url, MLFLOW_HTTP_REQUEST_MAX_RETRIES: '0' };
  const said = await mlflowPython(REPOSITORY, env, {
    args: [uri, kind, String(BIG_MIB)],
    timeoutMs: SCRIPT_MS,
  });
  const left = JSON.parse(said.trim().split('\n').at(-1)!) as string[];
  expect(left.toSorted()).toEqual(LEFT.toSorted());
}

/** A tracking server that keeps no artifacts: runs point at ours. */
const TRACKING = `
import json, os, sys, tempfile
import mlflow
from mlflow import MlflowClient
client = MlflowClient()
mlflow.set_experiment("an experiment")
with mlflow.start_run() as run:
    mlflow.log_param("p", 1)
    mlflow.log_text("ünï", "texts/a b.txt")
    mlflow.log_dict({"k": [1, 2]}, "config.json")
    tmp = tempfile.mkdtemp()
    open(os.path.join(tmp, "one.bin"), "wb").write(b"1" * 1000)
    os.makedirs(os.path.join(tmp, "sub"))
    open(os.path.join(tmp, "sub", "empty"), "wb").close()
    mlflow.log_artifacts(tmp, "tree")
run_id = run.info.run_id
assert mlflow.artifacts.load_text(f"runs:/{run_id}/texts/a b.txt") == "ünï"
assert mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json") == {"k": [1, 2]}
local = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="tree")
assert sorted(os.listdir(local)) == ["one.bin", "sub"] and os.path.getsize(os.path.join(local, "sub", "empty")) == 0
# also as the tracking server sees it, for its UI
import requests
seen = requests.get(os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}).json()
client.delete_run(run_id)
print(json.dumps({"uri": run.info.artifact_uri, "listed": sorted(f["path"] for f in seen.get("files", []))}))
`;

async function throughTracking(api: Api, gone: (path: string) => Promise<boolean>): Promise<void> {
  const tracking = await startMlflowServer({
    args: ['--no-serve-artifacts', '--default-artifact-root', api.artifacts.slice(0, -1)],
  });
  try {
    const env = { MLFLOW_TRACKING_URI: tracking.url, MLFLOW_HTTP_REQUEST_MAX_RETRIES: '1' };
    const said = await mlflowPython(TRACKING, env, { timeoutMs: SCRIPT_MS });
    const { uri, listed } = JSON.parse(said.trim().split('\n').at(-1)!) as { uri: string; listed: string[] };
    expect(listed).toEqual(['config.json', 'texts', 'tree']);
    expect(uri.startsWith(api.artifacts)).toBe(true);
    const path = uri.slice(api.artifacts.length);
    expect(await gone(path)).toBe(false);

    const collect = `import sys; from mlflow.cli import cli; cli(["gc", "--backend-store-uri", "sqlite:///${tracking.dir}/mlflow.db"])`;
    await mlflowPython(collect, env, { timeoutMs: SCRIPT_MS });
    expect(await gone(path)).toBe(true);
  } finally {
    await tracking.stop();
  }
}

requireServer('mlflow')('the official MLflow client on a folder', () => {
  test.each([0, 1])(
    'logs, lists, downloads and deletes through repository %i',
    { timeout: SCRIPT_MS },
    async (which) => {
      const api = await startApi();
      try {
        const [uri, kind] = repositories(api)[which]!;
        await wholeLife(api, uri, kind);
        expect(readdirSync(api.root)).toEqual([]);
      } finally {
        await api.close();
      }
    },
  );

  test('works with a tracking server whose runs keep their artifacts here, and its gc empties them', {
    timeout: SCRIPT_MS,
  }, async () => {
    const api = await startApi();
    try {
      await throughTracking(api, async (path) => {
        const folder = join(api.root, path);
        if (existsSync(folder)) expect(readFileSync(join(folder, 'texts/a b.txt'), 'utf8')).toBe('ünï');
        return !existsSync(folder);
      });
    } finally {
      await api.close();
    }
  });
});

requireServer('mlflow', 'minio')('the official MLflow client on MinIO', () => {
  test('logs, lists, downloads and deletes, and works with a tracking server', {
    timeout: 2 * SCRIPT_MS,
  }, async () => {
    const minio = await startMinio();
    await minio.makeBucket('artifacts');
    const api = await startApi({ artifactsDestination: 's3://artifacts/some/prefix' }, minio.env);
    try {
      for (const [uri, kind] of repositories(api)) await wholeLife(api, uri, kind);
      await throughTracking(api, async (path) => {
        const listing = await fetch(`${api.artifacts.slice(0, -1)}?path=${encodeURIComponent(path)}`);
        return (await listing.text()) === '{}';
      });
    } finally {
      await api.close();
      await minio.stop();
    }
  });
});
