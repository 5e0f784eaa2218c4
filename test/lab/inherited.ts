// What a controller inherits from whoever starts it in a lab or a test: where programs are, and where Node keeps what it compiled.

/**
 * Everything else of `env` stays outside, so that a shell's settings cannot change what is tested. Only `scripts/test.ts` sets the cache:
 * controllers that are measured compile as they do in their image.
 */
export function inherited(env: NodeJS.ProcessEnv = process.env): Record<string, string> {
  const { NODE_COMPILE_CACHE } = env;
  return {
    PATH: env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin",
    ...(NODE_COMPILE_CACHE === undefined ? {} : { NODE_COMPILE_CACHE }),
  };
}
