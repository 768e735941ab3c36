import type { Classified } from '../driver.ts';
import { codeOf } from './file-folder.ts';

const BY_CODE: Readonly<Record<string, Classified>> = {
  ENOENT: { kind: 'not-found', message: 'no such file' },
  EISDIR: { kind: 'invalid', message: 'there is a directory of that name' },
  ENOTEMPTY: { kind: 'invalid', message: 'there is a directory of that name' },
  ENOTDIR: { kind: 'invalid', message: 'a file lies where the path needs a directory' },
  EEXIST: { kind: 'already-exists', message: 'there is a file of that name already' },
  ENAMETOOLONG: { kind: 'invalid', message: 'the name or path is too long for this file system' },
  EINVAL: { kind: 'invalid', message: 'this file system does not take such a name' },
  EILSEQ: { kind: 'invalid', message: 'this file system does not take such a name' },
  ELOOP: { kind: 'invalid', message: 'the path leads through too many symbolic links' },
  EXDEV: { kind: 'unsupported', message: 'the directory is a mount of its own; configure it as a store' },
  EACCES: {
    kind: 'denied',
    message: 'the service may not do that there: check the owner and mode of the directory',
  },
  EPERM: {
    kind: 'denied',
    message: 'the service may not do that there: check the owner and mode of the directory',
  },
  EROFS: { kind: 'denied', message: 'the file system is mounted read-only' },
  ENOSPC: { kind: 'no-space', message: 'the disk is full' },
  EDQUOT: { kind: 'no-space', message: 'the disk quota is used up' },
  EFBIG: {
    kind: 'no-space',
    message: 'the file is larger than this file system or a limit of the process allows',
  },
  EMFILE: { kind: 'busy', message: 'too many open files: raise the limit (ulimit -n)' },
  ENFILE: { kind: 'busy', message: 'too many open files on this machine' },
  EAGAIN: { kind: 'busy', message: 'the file system is busy' },
  ENOMEM: { kind: 'busy', message: 'the machine is out of memory' },
  EIO: { kind: 'unavailable', message: 'the disk or its server reports an error' },
  ESTALE: {
    kind: 'unavailable',
    message: 'the NFS server no longer knows the directory; it may have restarted',
  },
  ETIMEDOUT: { kind: 'unavailable', message: 'the file server does not answer' },
  ENXIO: { kind: 'not-found', message: 'it is not a regular file' },
};

export function classifyFileError(error: unknown): Classified {
  const code = codeOf(error);
  return (code !== undefined && BY_CODE[code]) || { kind: code?.startsWith('E') ? 'unavailable' : 'bug' };
}
