/** Folders and buckets as their own tools see them, and not as our drivers do. */
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  type S3Client,
} from '@aws-sdk/client-s3';

/** Names are bytes, relative; they come and go in hexadecimal, as keys of a map. */
export interface Native {
  /** `false`: it cannot be held under this very name. */
  put(name: Buffer, content: string): Promise<boolean>;
  /** Content by name of every file below `dir`. */
  under(dir: string): Promise<ReadonlyMap<string, string>>;
}

export function folder(root: string): Native {
  const at = (name: Buffer): Buffer => Buffer.concat([Buffer.from(`${root}/`), name]);
  return {
    async put(name, content) {
      const text = name.toString('latin1');
      // the system would take these for another name
      if (/(^|\/)(\.\.?)?(\/|$)/.test(text) || text.includes('\0')) return false;
      try {
        mkdirSync(at(name.subarray(0, Math.max(0, name.lastIndexOf('/')))), { recursive: true });
        writeFileSync(at(name), content);
        return true;
      } catch (error) {
        if (!['ENAMETOOLONG', 'EILSEQ'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
        rmSync(at(name.subarray(0, Math.max(0, name.indexOf('/', 4)))), { recursive: true, force: true });
        return false;
      }
    },
    async under(dir) {
      const found = new Map<string, string>();
      const walk = (below: Buffer): void => {
        let entries: Buffer[];
        try {
          entries = readdirSync(at(below), { encoding: 'buffer' });
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
          throw error;
        }
        for (const entry of entries) {
          const name = Buffer.concat([below, Buffer.from('/'), entry]);
          if (lstatSync(at(name)).isDirectory()) walk(name);
          else found.set(name.subarray(dir.length + 1).toString('hex'), readFileSync(at(name), 'utf8'));
        }
      };
      walk(Buffer.from(dir));
      return found;
    },
  };
}

export function bucket(client: S3Client, Bucket: string): Native {
  async function* keys(Prefix: string): AsyncGenerator<string> {
    let after: string | undefined;
    do {
      const page = await client.send(
        new ListObjectsV2Command({ Bucket, Prefix, EncodingType: 'url', ContinuationToken: after }),
      );
      // versitygw passes over the wish
      const decoded = (key: string): string =>
        page.EncodingType === 'url' ? decodeURIComponent(key.replaceAll('+', ' ')) : key;
      for (const { Key = '' } of page.Contents ?? []) yield decoded(Key);
      after = page.NextContinuationToken;
    } while (after !== undefined);
  }
  return {
    async put(name, content) {
      const Key = name.toString('utf8');
      if (!Buffer.from(Key).equals(name)) return false;
      try {
        await client.send(new PutObjectCommand({ Bucket, Key, Body: content }));
      } catch (error) {
        const status = (error as { $metadata?: { httpStatusCode?: number } }).$metadata?.httpStatusCode;
        if (status !== undefined && status >= 400) return false;
        throw error;
      }
      for await (const key of keys(Key)) if (key === Key) return true;
      await client.send(new DeleteObjectCommand({ Bucket, Key }));
      return false;
    },
    async under(dir) {
      const found = new Map<string, string>();
      for await (const key of keys(`${dir}/`)) {
        const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: key }));
        found.set(Buffer.from(key.slice(dir.length + 1)).toString('hex'), await Body!.transformToString());
      }
      return found;
    },
  };
}
