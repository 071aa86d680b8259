from mmyolo_ext.cli.tune import main

if __name__ == '__main__':
    main()
